"""Copy checkpoints to another storage as they are, packs before manifest."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.catalog.catalog import Catalog
from perdure.catalog.manifest import Manifest
from perdure.errors import BusyError, KeyExists
from perdure.storage import Entry

_CHUNK = 8 * 1024 * 1024


def copy(source: Catalog, target: Catalog, name: str, versions: list[int]) -> list[int]:
    """Copy versions of a name, oldest first; returns those that were not there yet.

    What is there already is not copied again, so an interrupted copy goes on where it was. Signatures stay
    valid, since nothing is encoded anew. BusyError when the target has something else under a version.
    """
    listed = source.versions(name).manifests
    return [version for version in sorted(versions) if _copy(source, target, name, listed[version])]


def _copy(source: Catalog, target: Catalog, name: str, entry: Entry) -> bool:
    manifest = source.manifest(name, entry)
    version, key = manifest.version, entry.key
    there = target.versions(name).manifests.get(version)
    if there is not None:
        return _same(target.manifest(name, there), manifest, target)
    sizes = target.pack_sizes(name)
    for pack, its in manifest.packs.items():
        if sizes.get(pack) != its.size:
            path = f"{source.folder(name)}/{pack}"
            target.storage.put(path, _chunks(source, path, its.size))
    try:
        target.storage.put(key, [source.storage.read(key)], if_absent=True)
    except KeyExists:
        return _same(target.manifest(name, target.versions(name).manifests[version]), manifest, target)
    return True


def _same(there: Manifest, manifest: Manifest, target: Catalog) -> bool:
    """False, for "nothing to do", when both are one and the same commit."""
    if there.stamp != manifest.stamp:
        raise BusyError(
            f"{target.storage.where} has another version {manifest.version} of {manifest.name!r}",
            hint="copy into an empty store, or delete the name there first",
        )
    return False


def _chunks(source: Catalog, key: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, _CHUNK):
        yield source.storage.read(key, start, min(_CHUNK, size - start))
