"""Find, list and set aside checkpoints; the storage's listing is the only truth."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from perdure.catalog import manifest as manifests
from perdure.catalog.manifest import Manifest, Record
from perdure.errors import DamagedError, FormatError, KeyMissing, StorageError
from perdure.events import tell
from perdure.storage import Entry, Storage
from perdure.storage.keys import decode_name, encode_name

_TOP = "checkpoints"
_FIRST_READ = 64 * 1024
_LARGEST_FENCE = 4096
_FILE = re.compile(r"(\d{10,})\.(manifest|bad)")


@dataclass(frozen=True, slots=True)
class Versions:
    """What one listing of a name showed: manifests by version, and the versions that are set aside."""

    manifests: dict[int, Entry]
    bad: frozenset[int]

    @property
    def newest(self) -> int:
        """The highest version taken, fences and damaged ones included; 0 when there is none."""
        return max(self.manifests, default=0)

    def good(self) -> list[int]:
        """The versions not set aside, newest first."""
        return sorted(self.manifests.keys() - self.bad, reverse=True)


@dataclass(frozen=True, slots=True)
class Found:
    """One version as it stands: its record where it can be read, and why it is damaged where it is."""

    version: int
    record: Record | None
    damage: str = ""

    @property
    def is_fence(self) -> bool:
        """Whether it only marks that another writer took over."""
        return self.record is not None and self.record.manifest.kind == "fence"


class Catalog:
    """The checkpoints of one storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def folder(self, name: str) -> str:
        """Where everything of `name` lies."""
        return f"{_TOP}/{encode_name(name)}"

    def manifest_key(self, name: str, version: int) -> str:
        return f"{self.folder(name)}/{version:010d}.manifest"

    def names(self) -> list[str]:
        """Every name that has a checkpoint, sorted."""
        found = []
        for segment in self.storage.folders(_TOP):
            folder = f"{_TOP}/{segment}"
            versions = self._versions(folder)
            if self._has_checkpoint(versions):
                name = decode_name(segment)
                if name is None:
                    name = self._whole_name(segment, versions)
                if name is not None:
                    found.append(name)
        return sorted(found)

    def _whole_name(self, segment: str, versions: Versions) -> str | None:
        """A name too long for its segment, as any of its manifests tells it; None when none can be read."""
        why = ""
        for version in sorted(versions.manifests, reverse=True):
            try:
                return self._read(versions.manifests[version]).manifest.name
            except (DamagedError, KeyMissing) as error:
                why = str(error)
        tell("list.unnamed", folder=f"{_TOP}/{segment}", why=why)
        return None

    def versions(self, name: str) -> Versions:
        """One complete listing of a name."""
        return self._versions(self.folder(name))

    def _versions(self, folder: str) -> Versions:
        listed: dict[str, dict[int, Entry]] = {"manifest": {}, "bad": {}}
        for entry in self.storage.entries(folder):
            match = _FILE.fullmatch(entry.key.rpartition("/")[2])
            if match:
                listed[match[2]][int(match[1])] = entry
        return Versions(listed["manifest"], frozenset(listed["bad"]))

    def survey(self, name: str) -> Iterator[Found]:
        """Every version of a name, newest first, fences and damaged ones included. Marks and rebuilds nothing."""
        versions = self.versions(name)
        for version in sorted(versions.manifests, reverse=True):
            damage = self.why_bad(name, version) if version in versions.bad else ""
            try:
                record = self.read(name, versions.manifests[version])
            except KeyMissing:
                continue  # retention removed it meanwhile
            except DamagedError as error:
                yield Found(version, None, str(error))
            else:
                yield Found(version, record, damage)

    def read(self, name: str, entry: Entry) -> Record:
        """Read and check one manifest. DamagedError names the file and the reason; KeyMissing when it is gone."""
        record = self._read(entry)
        expected = self.manifest_key(name, record.manifest.version)
        if record.manifest.name != name or expected != entry.key:
            found = f"{record.manifest.name!r} version {record.manifest.version}"
            raise DamagedError(f"{self._file(entry.key)}: it is the manifest of {found}", hint=_MOVED)
        return record

    def _read(self, entry: Entry) -> Record:
        storage = self.storage
        try:
            data = storage.read(entry.key, 0, _FIRST_READ)
            if len(data) < entry.size:
                header, start = manifests.read_header(data)
                wanted = start + header.body + 1
                if wanted > len(data):
                    data += storage.read(entry.key, len(data), wanted - len(data))
            return manifests.decode(data, entry.size)
        except (DamagedError, FormatError) as error:
            raise type(error)(f"{self._file(entry.key)}: {error.message}", hint=error.hint) from error

    def payload(self, name: str, record: Record) -> memoryview:
        """The whole payload of a manifest, as much of it as is there; KeyMissing when the manifest is gone."""
        key = self.manifest_key(name, record.manifest.version)
        inline = [leaf for leaf in record.manifest.leaves.values() if not leaf.pack]
        wanted = max((leaf.offset + leaf.length for leaf in inline), default=0)
        if len(record.payload) >= wanted:
            return record.payload
        data = self.storage.read(key)
        _, start = manifests.read_header(data)
        return memoryview(data)[start + len(record.body) + 1 :]

    def manifest(self, name: str, entry: Entry) -> Manifest:
        """Just the manifest of a record."""
        return self.read(name, entry).manifest

    def pack_sizes(self, name: str) -> dict[str, int]:
        """The size of every pack of a name, by its key beside the manifests."""
        folder = self.folder(name)
        return {entry.key[len(folder) + 1 :]: entry.size for entry in self.storage.entries(f"{folder}/packs")}

    def has_packs(self, manifest: Manifest) -> bool:
        """Whether every pack of a manifest is there and has its size."""
        sizes = self.pack_sizes(manifest.name) if manifest.packs else {}
        return all(sizes.get(pack) == entry.size for pack, entry in manifest.packs.items())

    def set_aside(self, name: str, version: int, why: str) -> None:
        """Mark a version as damaged: its bytes are kept, but nothing chooses it any more."""
        note: dict[str, Any] = {"why": why, "time": time.time()}
        try:
            self.storage.put(f"{self.folder(name)}/{version:010d}.bad", [msgspec.json.encode(note)])
        except StorageError as error:
            # A reader may have no right to write; it goes on, and the next one finds the damage again.
            tell("checkpoint.not-marked", name=name, version=version, why=str(error))

    def take_back(self, name: str, version: int) -> None:
        """Remove the mark of `set_aside`."""
        self.storage.delete(f"{self.folder(name)}/{version:010d}.bad")

    def why_bad(self, name: str, version: int) -> str:
        """The reason that `set_aside` noted."""
        try:
            note = msgspec.json.decode(self.storage.read(f"{self.folder(name)}/{version:010d}.bad"))
            return str(note["why"])
        except (KeyMissing, msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError):
            return "unknown"

    def _file(self, key: str) -> str:
        return f"{self.storage.where}/{key}"

    def _has_checkpoint(self, versions: Versions) -> bool:
        """Whether there is more than fences, damaged or not; reads only what is small enough to be a fence."""
        if any(entry.size > _LARGEST_FENCE for entry in versions.manifests.values()):
            return True
        for _, entry in sorted(versions.manifests.items(), reverse=True):
            try:
                if self._read(entry).manifest.kind != "fence":
                    return True
            except KeyMissing:
                continue
            except (DamagedError, FormatError):
                return True
        return False


_MOVED = "a file was moved or copied here by hand; copy whole checkpoints with perdure instead"
