"""Copy checkpoints to another storage as they are, packs before manifest."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.catalog.catalog import Catalog
from perdure.catalog.lease import Lease
from perdure.catalog.manifest import Manifest
from perdure.errors import BusyError, DamagedError, KeyExists, KeyMissing
from perdure.storage import Entry

_CHUNK = 8 * 1024 * 1024


def copy(source: Catalog, target: Catalog, name: str, versions: list[int]) -> list[int]:
    """Copy versions of a name, oldest first; returns those that were not there yet.

    What is there already is not copied again, so an interrupted copy goes on where it was. Signatures stay
    valid, since nothing is encoded anew. BusyError when somebody writes the name in the target, or when what the
    target has of it is not a part of the same chain.
    """
    lease = Lease(target, name)
    try:
        # No fence: it would take a version that the source has. Every copy is created only if absent, and then
        # stands in the way of a sleeper as well as a fence would.
        lease.acquire(lambda: None)
        chain = _manifests(source, name)
        _refuse_another_chain(chain, target, name, versions)
        listed = source.versions(name).manifests
        return [one for one in sorted(versions) if _copy(source, target, name, listed[one], chain)]
    finally:
        lease.release()


def _refuse_another_chain(chain: dict[int, Manifest], target: Catalog, name: str, versions: list[int]) -> None:
    there = _manifests(target, name)
    fences = {version for version in there if there[version].kind == "fence"}
    for version in fences:
        del there[version]
    common = {version for version in chain if version in there and _is_same(there[version], chain[version], target)}
    missing = [version for version in versions if version not in there]
    if not missing:
        return
    if min(missing) <= max(fences, default=0):
        raise _stranger(f"{name!r} was deleted or taken over at version {max(fences)} in {target.storage.where}")
    taken = target.versions(name).manifests.keys() - fences  # those that cannot be read among them
    if taken and max(taken) > max(common, default=0):
        raise _stranger(f"{target.storage.where} has checkpoints of {name!r} that do not come from here")


def _copy(source: Catalog, target: Catalog, name: str, entry: Entry, chain: dict[int, Manifest]) -> bool:
    manifest = source.manifest(name, entry)
    version, key = manifest.version, entry.key
    before = target.versions(name).manifests
    if version in before:
        _is_same(target.manifest(name, before[version]), manifest, target)
        return False
    sizes = target.pack_sizes(name)
    for pack, its in manifest.packs.items():
        if sizes.get(pack) != its.size:
            path = f"{source.folder(name)}/{pack}"
            target.storage.put(path, _chunks(source, path, its.size))
    try:
        target.storage.put(key, [source.storage.read(key)], if_absent=True)
    except KeyExists:
        _is_same(target.manifest(name, target.versions(name).manifests[version]), manifest, target)
        return False
    _refuse_if_joined(target, manifest, before, chain)
    return True


def _refuse_if_joined(
    target: Catalog, manifest: Manifest, before: dict[int, Entry], chain: dict[int, Manifest]
) -> None:
    """BusyError when one who looked before our lease has committed since: its retention may have taken our packs.

    Retention follows a commit; whoever commits after this finds our manifest, and leaves its packs alone.
    """
    name = manifest.name
    for version, entry in target.versions(name).manifests.items():
        if version in before or version == manifest.version:
            continue
        try:
            stamp = target.manifest(name, entry).stamp
        except KeyMissing:
            continue
        except DamagedError:
            stamp = ""
        if version not in chain or stamp != chain[version].stamp:
            target.storage.delete(target.manifest_key(name, manifest.version))
            raise BusyError(
                f"another writer has saved version {version} of {name!r} in {target.storage.where} meanwhile",
                hint=_ELSEWHERE,
            )


def _is_same(there: Manifest, manifest: Manifest, target: Catalog) -> bool:
    """Whether both are one and the same commit; BusyError otherwise."""
    if there.stamp != manifest.stamp:
        raise _stranger(f"{target.storage.where} has another version {manifest.version} of {manifest.name!r}")
    return True


def _manifests(catalog: Catalog, name: str) -> dict[int, Manifest]:
    """Every manifest that can be read, fences included."""
    found = {}
    for version, entry in catalog.versions(name).manifests.items():
        try:
            found[version] = catalog.manifest(name, entry)
        except (DamagedError, KeyMissing):
            continue
    return found


def _stranger(what: str) -> BusyError:
    return BusyError(what, hint=_ELSEWHERE)


def _chunks(source: Catalog, key: str, size: int) -> Iterator[bytes]:
    for start in range(0, size, _CHUNK):
        yield source.storage.read(key, start, min(_CHUNK, size - start))


_ELSEWHERE = "nothing was mixed; copy into an empty store"
