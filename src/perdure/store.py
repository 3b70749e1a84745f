"""Named, versioned checkpoints on a storage.

From `save` to the system call a state crosses three rooms: here it is flattened and captured, `catalog.writer`
encodes it and publishes packs before the manifest, `storage` writes each of them whole or not at all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from perdure import restore as restoring
from perdure.background import Background, Promise
from perdure.capture import Arena, capture
from perdure.catalog import Catalog, Checkpoint, Options, Writer, transfer
from perdure.catalog.lease import refuse_if_held
from perdure.catalog.sweep import sweep
from perdure.catalog.writer import CONTEXT
from perdure.config import Settings
from perdure.errors import CheckpointNotFound, DamagedError, KeyMissing, UsageError
from perdure.events import tell
from perdure.restore import Request, Restored, Select
from perdure.state import Plan, flatten
from perdure.state.rebuild import ALLOWANCES
from perdure.storage import Storage, open_storage


class CheckpointStore:
    """Named, versioned checkpoints, for any state: `save` it, `load` it, in a directory or any other storage.

    `keep` good checkpoints of each name are kept (None: all); `compression` is None, "zstd" or "zstd:LEVEL";
    `objects="refuse"` rejects what only pickle could carry, which otherwise is signed with this user's key and
    rebuilt only where that key is known.

    Safe to use from several threads; each save of one name waits for the one before it.
    """

    def __init__(
        self,
        store_dir: str | os.PathLike[str] | Storage = "./ray_ckpts",
        *,
        keep: int | None = 3,
        compression: str | None = None,
        objects: Literal["sign", "refuse"] = "sign",
        settings: Settings | None = None,
    ) -> None:
        if objects not in ("sign", "refuse"):
            raise UsageError(f"objects={objects!r} is not known", hint="choose 'sign' or 'refuse'")
        self.storage = open_storage(store_dir)
        self.catalog = Catalog(self.storage)
        self.settings = settings or Settings.read()
        self.options = Options(keep, compression)
        self._objects = objects
        self._arena = Arena()
        self._background = Background()
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"CheckpointStore({self.storage.where!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Stores travel to workers (Ray, pools) as their address; locks and buffers stay behind.
        return _reopen, (self.storage.where, self.options.keep, self.options.compression, self._objects)

    def save(
        self, key: str, data: Any, *, step: int | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Save a state as the next version of `key`; when it returns, the checkpoint is durable.

        Raises StateError for what cannot be saved, BusyError (FencedError when it lost the race) for a second
        writer, and StorageError when it could not be written: older checkpoints are untouched by any of them.
        """
        with self._lock, _reported(self._facts(key, step)):
            self._background.drain()
            return self._stage(self.writer(key), data, None, step, metadata or {}, {})()

    def load(
        self,
        key: str,
        *,
        version: int | None = None,
        step: int | None = None,
        into: Any = None,
        only: str | Sequence[str] = (),
        allow: str | Collection[str] = (),
        trust: bool = False,
    ) -> Any:
        """The newest whole checkpoint of `key`, every byte checked; or that of a `version` or `step`.

        With `into`, live objects are filled in place and returned: modules, optimizers, generators, arrays,
        dicts. Everything is checked before the first of them is touched, and what does not fit raises
        MismatchError; `allow` names what may differ: "missing", "extra", "reshaped" (the live value stays).
        `only` restores the paths that match its patterns (`"model/*"`). `trust=True` rebuilds objects that
        nobody known has signed: do it once, for files whose writer you know, since loading them runs code.

        A damaged checkpoint is set aside with an event and the next older one is loaded. Raises
        CheckpointNotFound (a FileNotFoundError) when there is none, DamagedError when none is whole,
        UntrustedError for objects without a known signature.
        """
        request = _request(Plan.MISSING if into is None else into, only, allow, trust)
        return self.restore(key, request, Select(version, step)).state

    def exists(self, key: str) -> bool:
        """Whether a good checkpoint of `key` is there; StorageError when that cannot be found out."""
        return any(True for _ in self._good(key))

    def list(self, key: str | None = None) -> list[Checkpoint]:
        """The good checkpoints of `key`, or of all names, newest first within a name. Nothing is unpickled."""
        names = self.catalog.names() if key is None else [key]
        return [checkpoint for name in names for checkpoint in self._good(name)]

    def names(self) -> Sequence[str]:
        """Every name that has a checkpoint."""
        return self.catalog.names()

    def verify(self, key: str, version: int | None = None) -> Checkpoint:
        """Read every byte of a version, the newest by default, and rebuild nothing.

        DamagedError, after setting it aside, names file and reason. One that was set aside before and proves
        whole is taken back.
        """
        versions = self.catalog.versions(key)
        if not versions.manifests:
            raise CheckpointNotFound(f"there is no checkpoint {key!r} in {self.storage.where}")
        if version is None:
            version = next((c.version for c in self._good(key)), versions.newest)
        return restoring.verify(self.catalog, key, version, self.settings)

    def delete(self, key: str) -> None:
        """Remove every checkpoint of `key`, oldest first; absent is fine. BusyError while somebody writes it."""
        with self._lock:
            self._background.drain()
            folder = self.catalog.folder(key)
            refuse_if_held(self.catalog, key)
            for entry in self.storage.entries(folder):
                self.storage.delete(entry.key)
            for entry in self.storage.entries(f"{folder}/packs"):
                self.storage.delete(entry.key)
        tell("store.deleted", name=key)

    def clear_all(self) -> None:
        """Remove every checkpoint of this store, and nothing else."""
        for name in self.catalog.names():
            self.delete(name)

    def writer(self, name: str) -> Writer:
        """One who writes a name; for a single save, or with a lease for a whole run."""
        return Writer(self.catalog, name, self.options, self.settings)

    def save_with(
        self,
        writer: Writer,
        data: Any,
        *,
        context: Any = None,
        step: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Checkpoint:
        """Save through a writer that one holds; `context` is what a run needs beside the state."""
        with self._lock, _reported(self._facts(writer.name, step)):
            finish = self._stage(writer, data, context, step, metadata or {}, info or {})
            return finish()

    def save_async(
        self, key: str, data: Any, *, step: int | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Promise[Checkpoint]:
        """Copy a state now and write it behind the job's back; `wait()` of the promise gives the checkpoint.

        One save is under way at a time: the next one waits for it, and raises its error unless `wait` has.
        Until `wait` has returned, nothing is promised.
        """
        facts = self._facts(key, step)
        with self._lock, _reported(facts):
            self._background.drain()
            finish = self._stage(self.writer(key), data, None, step, metadata or {}, {})

            def work() -> Checkpoint:
                with _reported(facts):
                    return finish()

            return self._background.start(work)

    def prune(self, key: str, keep: int) -> Sequence[Checkpoint]:
        """Let go all but the `keep` newest good checkpoints of `key`; returns those that are left."""
        with self._lock:
            self._background.drain()
            refuse_if_held(self.catalog, key)
            sweep(self.catalog, key, Options(keep).keep)
        return self.list(key)

    def copy(self, key: str, to: CheckpointStore, *, version: int | None = None) -> Sequence[Checkpoint]:
        """Copy the good checkpoints of `key`, or one version, to another store, as they are; goes on if interrupted.

        Returns those that were not there yet. BusyError when the other store has something else under a version.
        """
        found = {checkpoint.version: checkpoint for checkpoint in self.list(key)}
        wanted = list(found) if version is None else [version]
        if not wanted or not set(wanted) <= set(found):
            raise CheckpointNotFound(f"there is no checkpoint {key!r} to copy in {self.storage.where}")
        return [found[one] for one in transfer.copy(self.catalog, to.catalog, key, wanted)]

    def _stage(
        self,
        writer: Writer,
        data: Any,
        context: Any,
        step: int | None,
        metadata: Mapping[str, Any],
        info: Mapping[str, Any],
    ) -> Callable[[], Checkpoint]:
        """Freeze a state, and say how to finish the save; nothing else may use the arena until that is done."""
        facts = self._facts(writer.name, step)
        self._background.drain()
        started = time.perf_counter()
        plain = _json(metadata)
        state = flatten(data, objects=self._objects)
        snapshot = capture(state, flatten(context, prefix=CONTEXT), self._arena)
        stall = time.perf_counter() - started
        tell("save.staged", **facts, nbytes=snapshot.nbytes, seconds=stall)

        def finish() -> Checkpoint:
            checkpoint = writer.commit(snapshot, step=step, metadata=plain, info={**info, "stall": stall})
            seconds = time.perf_counter() - started
            size = {"nbytes": checkpoint.nbytes, "written": checkpoint.written}
            tell("save.committed", **facts, version=checkpoint.version, **size, seconds=seconds)
            return checkpoint

        return finish

    def _facts(self, name: str, step: int | None) -> dict[str, Any]:
        return {"store": self.storage.where, "name": name, "step": step}

    def restore(self, name: str, request: Request, select: Select) -> Restored:
        """Load with everything that is known about it: for runs and tools."""
        return restoring.restore(self.catalog, name, self.settings, request, select)

    def _good(self, name: str) -> Iterator[Checkpoint]:
        versions = self.catalog.versions(name)
        for version in versions.good():
            try:
                manifest = self.catalog.manifest(name, versions.manifests[version])
            except (DamagedError, KeyMissing) as error:
                tell("list.skipped", name=name, version=version, why=str(error))
                continue
            if manifest.kind == "checkpoint":
                yield Checkpoint.of(manifest)


def _reopen(where: str, keep: int | None, compression: str | None, objects: Any) -> CheckpointStore:
    return CheckpointStore(where, keep=keep, compression=compression, objects=objects)


def _request(into: Any, only: str | Sequence[str], allow: str | Collection[str], trust: bool) -> Request:
    allowed = frozenset([allow] if isinstance(allow, str) else allow)
    if not allowed <= set(ALLOWANCES):
        raise UsageError(f"allow={allow!r} is not known", hint=f"choose from {', '.join(ALLOWANCES)}")
    return Request(into, (only,) if isinstance(only, str) else tuple(only), allowed, trust)


@contextmanager
def _reported(facts: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        tell("save.failed", **facts, why=str(error))
        raise


def _json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """User metadata must be JSON, so that it can be read, listed and searched without running anything."""

    def plain_of(value: Any) -> Any:
        if hasattr(value, "item"):
            return value.item()  # a number of NumPy or torch
        raise UsageError(f"metadata holds a {type(value).__name__}", hint="give strings, numbers, lists and dicts")

    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(metadata), enc_hook=plain_of))
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"metadata is not JSON: {error}") from error
    return plain
