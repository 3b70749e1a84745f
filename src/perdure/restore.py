"""Read a checkpoint, check every byte, hand it to live objects; fall back to the older one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from perdure import registry
from perdure.catalog import Catalog, Checkpoint, Manifest, Record
from perdure.catalog.manifest import LeafEntry
from perdure.config import Settings
from perdure.encode import digest, signer
from perdure.errors import (
    CheckpointNotFound,
    DamagedError,
    KeyMissing,
    MismatchError,
    PerdureError,
    UntrustedError,
)
from perdure.events import tell
from perdure.state import Plan
from perdure.state.contract import adapter_named

_TRIES = 5
_ELSEWHERE = "nothing is damaged, but this process cannot rebuild it: its classes or libraries may be others"


@dataclass(frozen=True, slots=True)
class Request:
    """What to restore: `into` live objects or new, only some paths, what may differ, whom to trust."""

    into: Any = Plan.MISSING
    only: tuple[str, ...] = ()
    allow: frozenset[str] = frozenset()
    trust: bool = False


@dataclass(frozen=True, slots=True)
class Select:
    """Which checkpoint: a version, the newest of a step, or the newest; `context` asks for that as well."""

    version: int | None = None
    step: int | None = None
    context: bool = False

    @property
    def words(self) -> str:
        if self.version is not None:
            return f" version {self.version}"
        return f" step {self.step}" if self.step is not None else ""


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: the state, the run's context where asked for, and the manifest that it came from."""

    state: Any
    context: Any
    manifest: Manifest


class _Vanished(Exception):
    """The checkpoint was removed by retention while it was read."""


def restore(catalog: Catalog, name: str, settings: Settings, request: Request, select: Select) -> Restored:
    """The newest checkpoint that `select` wants and that is whole.

    A damaged one is set aside with an event, and the next older one restored in full. Raises CheckpointNotFound
    after a complete listing without any, DamagedError (the content of `into` is untouched) when all are
    damaged, MismatchError and UntrustedError as the state says.
    """
    for _ in range(_TRIES):
        try:
            return _restore(catalog, name, settings, request, select)
        except _Vanished:
            continue  # list again: there are newer ones
    raise DamagedError(f"{name!r}: every checkpoint was removed while it was read", hint="keep more of them")


def _restore(catalog: Catalog, name: str, settings: Settings, request: Request, select: Select) -> Restored:
    reasons: list[str] = []
    for version, record in _candidates(catalog, name, select, reasons):
        try:
            return _read(catalog, name, record, settings, request, select.context)
        except KeyMissing as error:
            if version not in catalog.versions(name).manifests:
                raise _Vanished from error
            _set_aside(catalog, name, version, f"a file is missing: {error.message}", reasons)
        except DamagedError as error:
            _set_aside(catalog, name, version, str(error), reasons)
    if reasons:
        raise DamagedError(
            f"no checkpoint of {name!r}{select.words} is whole: {'; '.join(reasons)}",
            hint="the damaged files were kept; nothing was loaded",
        )
    raise CheckpointNotFound(
        f"there is no checkpoint {name!r}{select.words} in {catalog.storage.where}",
        hint="`perdure ls` shows what is there",
    )


def _candidates(catalog: Catalog, name: str, select: Select, reasons: list[str]) -> Iterator[tuple[int, Record]]:
    """Checkpoints to try, newest first; a version asked for by number is tried even when it is set aside."""
    versions = catalog.versions(name)
    if select.version is not None:
        order = [select.version] if select.version in versions.manifests else []
    else:
        order = versions.good()
        reasons += [f"version {bad}: {catalog.why_bad(name, bad)}" for bad in sorted(versions.bad, reverse=True)]
    for version in order:
        try:
            record = catalog.read(name, versions.manifests[version])
        except KeyMissing as error:
            raise _Vanished from error
        except DamagedError as error:
            _set_aside(catalog, name, version, str(error), reasons)
            continue
        manifest = record.manifest
        if manifest.kind == "checkpoint" and select.step in (None, manifest.step):
            yield version, record


def _set_aside(catalog: Catalog, name: str, version: int, why: str, reasons: list[str]) -> None:
    reasons.append(f"version {version}: {why}")
    catalog.set_aside(name, version, why)
    tell("restore.set-aside", name=name, version=version, why=why)


def _read(
    catalog: Catalog, name: str, record: Record, settings: Settings, request: Request, context: bool
) -> Restored:
    manifest = record.manifest
    source = Source(catalog, name, record, settings)
    specs = {path: leaf.spec for path, leaf in manifest.leaves.items()}
    trusted = source.signed or request.trust
    try:
        plan = Plan(manifest.tree, specs, request.into, trusted=trusted, allow=request.allow, only=request.only)
        own = Plan(manifest.context, specs, trusted=trusted) if context else None
    except UntrustedError as error:
        raise UntrustedError(f"{source.file}: {error.message}", hint=error.hint) from error
    except DamagedError as error:
        # The bytes are as they were written; that this process cannot rebuild them is no damage.
        raise MismatchError(f"{source.file}: {error.message}", hint=_ELSEWHERE) from error
    plan.check()
    values = source.read(plan.needed.keys() | (own.needed.keys() if own else set()))
    plan.values.update(values)
    if own is not None:
        own.values.update(values)
    try:
        state, its_context = plan.run(), own.run() if own else None
    except PerdureError:
        raise
    except Exception as error:
        raise MismatchError(
            f"{source.file} could not be rebuilt: {type(error).__name__}: {error}",
            hint="every byte is as it was saved; the content of live objects is now undefined",
        ) from error
    tell("restore.done", name=name, version=manifest.version, step=manifest.step, nbytes=manifest.nbytes)
    return Restored(state, its_context, manifest)


class Source:
    """The bytes of one checkpoint's leaves, checked: every digest, and signatures where the key is known."""

    def __init__(self, catalog: Catalog, name: str, record: Record, settings: Settings) -> None:
        self._catalog = catalog
        self._name = name
        self._record = record
        self._payload: memoryview | None = None
        known = signer(settings, create=False) if record.mac else None
        try:
            self._signer = known if record.signed_by(known) else None
        except DamagedError as error:
            raise DamagedError(f"{self.file}: {error.message}", hint=error.hint) from error
        self._check_files()

    @property
    def signed(self) -> bool:
        """Whether a key known here has signed the manifest."""
        return self._signer is not None

    def read(self, wanted: Collection[str]) -> dict[str, Any]:
        """New values of the wanted leaves, in the order of their files."""
        values = {}
        entries = [(path, self._record.manifest.leaves[path]) for path in wanted]
        for path, entry in sorted(entries, key=lambda item: (item[1].pack, item[1].offset)):
            adapter = adapter_named(entry.kind.partition(".")[0])
            try:
                value, memory = adapter.empty(entry.spec)
            except (LookupError, ValueError, TypeError, RuntimeError) as error:
                raise MismatchError(f"{path} in {self._file(entry)}: {error}", hint=_ELSEWHERE) from error
            self._fill(path, entry, memory)
            values[path] = adapter.finish(value, entry.spec)
        return values

    def check(self) -> None:
        """Read every leaf, and the headers of the packs; rebuild nothing."""
        folder = self._catalog.folder(self._name)
        for pack, its in self._record.manifest.packs.items():
            if digest(self._catalog.storage.read(f"{folder}/{pack}", 0, its.header)) != its.digest:
                where = f"{self._catalog.storage.where}/{folder}/{pack}"
                raise DamagedError(f"{where}: its header is damaged", hint="perdure itself can still load it")
        for path, entry in self._record.manifest.leaves.items():
            self._fill(path, entry, memoryview(bytearray(entry.nbytes)))
            tell("verify.leaf", path=path, nbytes=entry.nbytes)

    def _check_files(self) -> None:
        """Presence and sizes, before anything is read or allocated: a claim of 2^60 bytes ends here."""
        manifest = self._record.manifest
        sizes = self._catalog.pack_sizes(self._name) if manifest.packs else {}
        for pack, its in manifest.packs.items():
            key = f"{self._catalog.folder(self._name)}/{pack}"
            if pack not in sizes:
                raise KeyMissing(f"{key} is not in {self._catalog.storage.where}")
            if sizes[pack] != its.size:
                where = f"{self._catalog.storage.where}/{key}"
                raise DamagedError(f"{where} has {sizes[pack]} bytes instead of {its.size}")
        for path, entry in manifest.leaves.items():
            if entry.pack:
                end = manifest.packs[entry.pack].size if entry.pack in manifest.packs else 0
            else:
                end = self._record.payload_size
            fits = 0 <= entry.offset <= entry.offset + entry.length <= end
            if not fits or (not entry.codec and entry.length != entry.nbytes):
                raise DamagedError(f"{path} in {self._file(entry)}: its place makes no sense")

    def _fill(self, path: str, entry: LeafEntry, out: memoryview) -> None:
        """Fill `out` with the leaf's content; DamagedError, naming file and leaf, unless it is what was saved."""
        stored = memoryview(bytearray(entry.length)) if entry.codec else out
        self._copy(path, entry, stored)
        if entry.codec:
            try:
                registry.load("compression", entry.codec).decompress(bytes(stored), out)
            except DamagedError as error:
                raise DamagedError(f"{path} in {self._file(entry)}: {error.message}") from error
        if digest(out) != entry.digest:
            raise DamagedError(f"{path} in {self._file(entry)}: its digest does not match")
        if self._signer is not None and entry.kind == "object" and self._signer.leaf_mac(out) != entry.mac:
            raise DamagedError(f"{path} in {self._file(entry)}: it was altered after it was signed")

    def _copy(self, path: str, entry: LeafEntry, out: memoryview) -> None:
        if entry.pack:
            key = f"{self._catalog.folder(self._name)}/{entry.pack}"
            got = self._catalog.storage.read_into(key, entry.offset, out)
        else:
            if self._payload is None:
                self._payload = self._catalog.payload(self._name, self._record)
            part = self._payload[entry.offset : entry.offset + entry.length]
            got = len(part)
            out[:got] = part
        if got != entry.length:
            raise DamagedError(f"{path} in {self._file(entry)}: {got} bytes are there, {entry.length} were written")

    @property
    def file(self) -> str:
        """The manifest, for messages."""
        key = self._catalog.manifest_key(self._name, self._record.manifest.version)
        return f"{self._catalog.storage.where}/{key}"

    def _file(self, entry: LeafEntry) -> str:
        if not entry.pack:
            return self.file
        return f"{self._catalog.storage.where}/{self._catalog.folder(self._name)}/{entry.pack}"


def verify(catalog: Catalog, name: str, version: int, settings: Settings) -> Checkpoint:
    """Read every byte of one version without rebuilding anything, so that no code of it can run.

    DamagedError, after setting it aside, names file and reason; a version set aside earlier that proves whole
    is taken back. CheckpointNotFound when there is none, or when retention removed it meanwhile.
    """
    absent = CheckpointNotFound(f"there is no version {version} of {name!r} in {catalog.storage.where}")
    versions = catalog.versions(name)
    if version not in versions.manifests:
        raise absent
    try:
        record = catalog.read(name, versions.manifests[version])
        Source(catalog, name, record, settings).check()
    except (DamagedError, KeyMissing) as error:
        if version not in catalog.versions(name).manifests:
            raise absent from error
        catalog.set_aside(name, version, str(error))
        raise DamagedError(f"version {version} of {name!r}: {error.message}", hint=error.hint) from error
    if version in versions.bad:
        catalog.take_back(name, version)
    return Checkpoint.of(record.manifest)
