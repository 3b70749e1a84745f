"""Write one name: encode, publish in order, and commit exactly the next version."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from perdure import registry
from perdure.capture import Snapshot
from perdure.catalog import manifest as manifests
from perdure.catalog.catalog import Catalog
from perdure.catalog.lease import Lease, refuse_if_held
from perdure.catalog.manifest import Checkpoint, LeafEntry, Manifest, PackEntry
from perdure.catalog.sweep import sweep
from perdure.config import VERSION, Settings
from perdure.encode import Piece, Signer, digest, lay_out, signer
from perdure.errors import (
    BusyError,
    DamagedError,
    FencedError,
    KeyExists,
    KeyMissing,
    StorageError,
    UsageError,
)
from perdure.events import tell
from perdure.storage.process import current

_INLINE_LIMIT = 1024 * 1024

CONTEXT = "%run"
"""Where the leaves of a run's own context stand: `%` is escaped in the paths of the user's state."""


@dataclass(frozen=True, slots=True)
class Options:
    """How saves are written: `compression` is None, "zstd" or "zstd:LEVEL"; `keep` is how many, None for all."""

    keep: int | None = 3
    compression: str | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and (type(self.keep) is not int or self.keep < 1):
            raise UsageError(f"keep={self.keep!r} would keep nothing", hint="give 1 or more, or None to keep all")
        self.codec()

    def codec(self) -> tuple[str, int] | None:
        """Name and level of the codec."""
        if self.compression is None:
            return None
        name, _, level = self.compression.partition(":")
        if name not in registry.known("compression") or not (level or "3").isdigit():
            raise UsageError(f"unknown compression {self.compression!r}", hint="give 'zstd', 'zstd:9' or None")
        return name, int(level or "3")


class Writer:
    """The one who writes a name. Remembers its last version: it never commits one that it found by listing again.

    A writer without a lease is good for one save; Run holds one with a lease for as long as it runs.
    """

    def __init__(self, catalog: Catalog, name: str, options: Options, settings: Settings) -> None:
        self.catalog = catalog
        self.name = name
        self._options = options
        self._settings = settings
        self._lease: Lease | None = None
        self._pid = os.getpid()
        self._base: Manifest | None = None
        self._version = 0
        self._unsure: set[str] = set()
        self.look()

    def look(self) -> None:
        """Take the newest version as one's own last, and the newest good manifest as base for sharing packs."""
        versions = self.catalog.versions(self.name)
        self._version = versions.newest
        self._base = None
        for version in versions.good():
            try:
                manifest = self.catalog.manifest(self.name, versions.manifests[version])
            except (DamagedError, KeyMissing):
                continue
            # A pack that is gone or cut would take every later checkpoint along.
            if manifest.kind == "checkpoint" and self.catalog.has_packs(manifest):
                self._base = manifest
                return

    def build_on(self, manifest: Manifest) -> None:
        """Share packs with this manifest, which was just restored and is known to be whole."""
        self._base = manifest

    def content(self) -> tuple[Any, dict[str, str]] | None:
        """What the state was when last committed or restored: its tree and digests; None when it has no arrays."""
        if self._base is None:
            return None
        leaves = {path: leaf for path, leaf in self._base.leaves.items() if not path.startswith(CONTEXT)}
        if all(leaf.dtype == "bytes" for leaf in leaves.values()):
            return None
        return self._base.tree, {path: leaf.digest for path, leaf in leaves.items()}

    def hold(self, lease: Lease) -> None:
        """Acquire a lease, then look again: what was committed before it counts."""
        lease.acquire(self._fence)
        self._lease = lease
        self.look()

    def release(self) -> None:
        """Give the lease back."""
        if self._lease is not None and self._pid == os.getpid():
            self._lease.release()
            self._lease = None

    def commit(
        self, snapshot: Snapshot, *, step: int | None, metadata: dict[str, Any], info: dict[str, Any]
    ) -> Checkpoint:
        """Publish a snapshot as the next version: packs first, then the manifest, then what retention lets go.

        Raises FencedError when another writer has that version, BusyError when another holds the lease, and
        StorageError when it could not be written; older checkpoints are untouched by any of them.
        """
        if self._pid != os.getpid():
            raise BusyError(f"{self.name!r} belongs to the parent process", hint="save where it was opened")
        if self._lease is None:
            refuse_if_held(self.catalog, self.name)
        self._drop_bad_base()
        sign = signer(self._settings, create=True) if snapshot.trust else None
        shared, pieces, sums = self._split(snapshot)
        packs = {entry.pack: self._base.packs[entry.pack] for entry in shared.values()} if self._base else {}
        payload: list[bytes | memoryview] = []
        if sum(len(piece.data) for piece in pieces) <= _INLINE_LIMIT:
            payload = [piece.data for piece in pieces]
            pack, offsets, written = "", _offsets(payload), sum(map(len, payload))
        else:
            header, pieces, offsets = lay_out(pieces)
            pack = f"packs/{self._version + 1:010d}-{current().tag}-{secrets.token_hex(4)}.safetensors"
            key = f"{self.catalog.folder(self.name)}/{pack}"
            written = self.catalog.storage.put(key, [header, *(piece.data for piece in pieces)])
            packs[pack] = PackEntry(written, len(header), digest(header))
        fresh = {
            piece.path: _entry(piece, sums[piece.path], pack, offset, sign, snapshot)
            for piece, offset in zip(pieces, offsets, strict=True)
        }
        manifest = Manifest(
            name=self.name,
            version=self._version + 1,
            kind="checkpoint",
            stamp=secrets.token_hex(8),
            created=time.time(),
            step=step,
            tree=snapshot.tree,
            context=snapshot.context,
            leaves={path: fresh.get(path) or shared[path] for path in snapshot.leaves},
            packs=packs,
            metadata=metadata,
            info=_facts() | info | {"written": written},
        )
        manifest = self._publish(manifest, payload, sign)
        self._version, self._base = manifest.version, manifest
        self._unsure.clear()
        try:
            sweep(self.catalog, self.name, self._options.keep)
        except StorageError as error:
            # The checkpoint stands; what should have gone will be found by the next save.
            tell("sweep.failed", name=self.name, why=str(error))
        return Checkpoint.of(manifest)

    def _drop_bad_base(self) -> None:
        """Share no pack that has gone, or that a version set aside since has too: it may be what is damaged."""
        if self._base is None or not self._base.packs:
            return
        versions = self.catalog.versions(self.name)
        for version in versions.bad & versions.manifests.keys():
            try:
                manifest = self.catalog.manifest(self.name, versions.manifests[version])
            except (DamagedError, KeyMissing):
                continue
            if manifest.packs.keys() & self._base.packs.keys():
                self._base = None
                return
        if not self.catalog.has_packs(self._base):
            self._base = None

    def _split(self, snapshot: Snapshot) -> tuple[dict[str, LeafEntry], list[Piece], dict[str, str]]:
        """Leaves that the base has in its packs, leaves to be written, and the digests of all."""
        base = self._base.leaves.values() if self._base else ()
        known = {(entry.digest, entry.nbytes): entry for entry in base if entry.pack and entry.kind != "object"}
        shared: dict[str, LeafEntry] = {}
        pieces: list[Piece] = []
        sums: dict[str, str] = {}
        for path, (spec, data) in snapshot.leaves.items():
            sums[path] = digest(data)
            old = None if spec.kind == "object" else known.get((sums[path], spec.nbytes))
            if old is not None:
                what = {"kind": spec.kind, "dtype": spec.dtype, "shape": spec.shape, "meta": dict(spec.meta)}
                shared[path] = msgspec.structs.replace(old, **what)
            else:
                pieces.append(self._compress(Piece(path, spec, data)))
        return shared, pieces, sums

    def _compress(self, piece: Piece) -> Piece:
        codec = self._options.codec()
        if codec is None or not len(piece.data):
            return piece
        name, level = codec
        data = registry.load("compression", name).compress(piece.data, level)
        return Piece(piece.path, piece.spec, data, name) if len(data) < len(piece.data) else piece

    def _publish(self, manifest: Manifest, payload: Sequence[bytes | memoryview], sign: Signer | None) -> Manifest:
        """Create the manifest under its version, or find out whose that version is."""
        storage = self.catalog.storage
        while True:
            key = self.catalog.manifest_key(self.name, manifest.version)
            self._unsure.add(manifest.stamp)
            try:
                storage.put(key, manifests.encode(manifest, payload, sign), if_absent=True)
            except KeyExists:
                versions = self.catalog.versions(self.name)
                if versions.newest < manifest.version:
                    what = f"{key} in {storage.where} is taken by something that is not a file"
                    raise StorageError(what, hint="remove it") from None
                there = self._stamp_at(manifest.version)
                if there == manifest.stamp:
                    return manifest  # the answer to our own put was lost
                if there not in self._unsure:
                    raise _fenced(self.name, manifest.version) from None
                # An earlier save of ours that reported an error had reached the storage after all.
                manifest = msgspec.structs.replace(manifest, version=manifest.version + 1)
            else:
                self._refuse_if_late(manifest)
                return manifest

    def _refuse_if_late(self, manifest: Manifest) -> None:
        """FencedError when a later version is there: ours was only free because retention has removed it."""
        newest = self.catalog.versions(self.name).newest
        if newest > manifest.version:
            self.catalog.storage.delete(self.catalog.manifest_key(self.name, manifest.version))
            raise _fenced(self.name, newest)

    def _stamp_at(self, version: int) -> str | None:
        entry = self.catalog.versions(self.name).manifests.get(version)
        try:
            return self.catalog.manifest(self.name, entry).stamp if entry else None
        except (DamagedError, KeyMissing):
            return None

    def _fence(self) -> None:
        version = self._version + 1
        fence = Manifest(self.name, version, "fence", secrets.token_hex(8), time.time(), info=_facts())
        self._publish(fence, [], None)
        self._version = version

    def fence(self) -> int:
        """Commit a fence as the next version, and return that: no other writer can use it, nor one before it."""
        self._fence()
        return self._version


def _entry(piece: Piece, sum_: str, pack: str, offset: int, sign: Signer | None, snapshot: Snapshot) -> LeafEntry:
    spec = piece.spec
    raw = snapshot.leaves[piece.path][1]
    return LeafEntry(
        kind=spec.kind,
        dtype=spec.dtype,
        shape=spec.shape,
        nbytes=spec.nbytes,
        digest=sum_,
        pack=pack,
        offset=offset,
        length=len(piece.data),
        codec=piece.codec,
        mac=sign.leaf_mac(raw) if sign and spec.kind == "object" else "",
        meta=dict(spec.meta),
    )


def _fenced(name: str, version: int) -> FencedError:
    return FencedError(
        f"another writer has saved version {version} of {name!r} meanwhile",
        hint="nothing was overwritten; load the newest version and go on from there",
    )


def _offsets(payload: Sequence[bytes | memoryview]) -> list[int]:
    return list(accumulate(map(len, payload), initial=0))[: len(payload)]


def _facts() -> dict[str, Any]:
    """Who wrote it, with what."""
    me = current()
    return {"host": me.host, "pid": me.pid, "python": platform.python_version(), "perdure": VERSION}
