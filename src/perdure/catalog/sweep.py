"""Let go what retention does not keep, and what dead writers left; never the newest good checkpoint."""

from __future__ import annotations

import re

from perdure.catalog.catalog import Catalog
from perdure.catalog.manifest import Manifest
from perdure.errors import DamagedError, KeyMissing
from perdure.storage import Entry
from perdure.storage.process import tag_is_dead

_PACK = re.compile(r"(\d{10,})-([0-9a-f]+-\d+-\d+)-[0-9a-f]+\.safetensors")
_FOREIGN_LITTER_SECONDS = 7 * 86400.0


def sweep(catalog: Catalog, name: str, keep: int | None) -> None:
    """Keep the `keep` newest whole checkpoints of a name; remove older manifests, then packs that none needs.

    Runs right after a commit of the name's one writer. Damaged versions stay, for whoever wants to look at them,
    until `keep` whole ones are newer.
    """
    versions = catalog.versions(name)
    storage = catalog.storage
    storage.tidy(catalog.folder(name))
    if keep is None:
        # Every pack may be needed but those of saves that lost their version to this one.
        remaining = {versions.newest: _read(catalog, name, versions.manifests[versions.newest])}
        _sweep_packs(catalog, name, versions.newest, remaining, since=versions.newest)
        return
    remaining = {}
    kept = 0
    for version in versions.good():
        remaining[version] = manifest = _read(catalog, name, versions.manifests[version])
        kept += manifest is not None and manifest.kind == "checkpoint" and catalog.has_packs(manifest)
        if kept == keep:
            break
    oldest = min(remaining) if kept == keep else 0
    for version, entry in sorted(versions.manifests.items()):
        if version < oldest:
            storage.delete(entry.key)
            if version in versions.bad:
                catalog.take_back(name, version)
        elif version not in remaining:
            remaining[version] = _read(catalog, name, entry)
    _sweep_packs(catalog, name, versions.newest, remaining)


def _sweep_packs(
    catalog: Catalog, name: str, newest: int, remaining: dict[int, Manifest | None], *, since: int = 0
) -> None:
    folder = f"{catalog.folder(name)}/packs"
    catalog.storage.tidy(folder)
    packs = catalog.storage.entries(folder)
    if None in remaining.values() or not packs:
        return  # a manifest that cannot be read does not say which packs it needs
    needed = {
        f"{catalog.folder(name)}/{pack}" for manifest in remaining.values() if manifest for pack in manifest.packs
    }
    latest = max(entry.modified for entry in packs)
    for entry in packs:
        if entry.key not in needed and _is_garbage(entry, since, newest, latest):
            catalog.storage.delete(entry.key)


def _is_garbage(entry: Entry, since: int, newest: int, latest: float) -> bool:
    match = _PACK.fullmatch(entry.key.rpartition("/")[2])
    if match is None or int(match[1]) < since:
        return False  # not ours, or not looked at
    version, tag = int(match[1]), match[2]
    if version <= newest:
        return True
    # Above the newest version it may belong to a save in flight, of this very process even.
    return tag_is_dead(tag) or latest - entry.modified > _FOREIGN_LITTER_SECONDS


def _read(catalog: Catalog, name: str, entry: Entry) -> Manifest | None:
    try:
        return catalog.manifest(name, entry)
    except (DamagedError, KeyMissing):
        return None
