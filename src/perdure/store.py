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
from perdure.catalog import Catalog, Checkpoint, Lease, Options, Writer, transfer
from perdure.catalog.sweep import sweep
from perdure.catalog.writer import CONTEXT
from perdure.config import Settings
from perdure.errors import BusyError, CheckpointNotFound, DamagedError, FencedError, KeyMissing, UsageError
from perdure.events import tell
from perdure.restore import Request, Restored, Select
from perdure.state import Plan, flatten
from perdure.state.rebuild import ALLOWANCES
from perdure.storage import Storage, open_storage


class _Desk:
    """What the saves of one store share in one process: their turn, the memory of snapshots, the thread behind."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        self.depth = 0
        self.writers: set[Writer] = set()
        self.arena = Arena()
        self.background = Background()


class CheckpointStore:
    """Named, versioned checkpoints, for any state: `save` it, `load` it, in a directory or any other storage.

    `keep` good checkpoints of each name are kept (None: all); `compression` is None, "zstd" or "zstd:LEVEL";
    `objects="refuse"` rejects what only pickle could carry, which otherwise is signed with this user's key and
    rebuilt only where that key is known.

    Safe to use from several threads; each save waits for the one before it. A save may be called inside another
    one of the same thread, by a signal handler or a listener; of one name the inner wins, the outer is fenced.
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
        self._desk = _Desk()

    def __repr__(self) -> str:
        return f"CheckpointStore({self.storage.where!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Stores travel to workers (Ray, pools) as their address; locks and buffers stay behind.
        if not self.storage.traits.durable:
            raise UsageError(
                f"{self.storage.where} is in the memory of this process and cannot travel to another one",
                hint="use a directory",
            )
        return _reopen, (self.storage.where, self.options.keep, self.options.compression, self._objects)

    def save(
        self, key: str, data: Any, *, step: int | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Save a state as the next version of `key`; when it returns, the checkpoint is durable.

        Raises StateError for what cannot be saved, BusyError (FencedError when it lost the race) for a second
        writer, and StorageError when it could not be written: older checkpoints are untouched by any of them.
        """
        with _reported(self._facts(key, step)), self._turn() as arena:
            return self._stage(self.writer(key), data, None, step, metadata or {}, {}, arena)()

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
        wanted = request(Plan.MISSING if into is None else into, only, allow, trust)
        return self.restore(key, wanted, Select(version, step)).state

    def exists(self, key: str) -> bool:
        """Whether a good checkpoint of `key` is there; StorageError when that cannot be found out.

        DamagedError when there are only damaged ones: whoever then began anew would lose what `verify` may save.
        """
        while True:
            damaged, seen = [], 0
            for found in self.catalog.survey(key):
                seen = max(seen, found.version)
                if found.is_fence:
                    continue
                if not found.damage:
                    return True
                damaged.append(f"version {found.version}: {found.damage}")
            if damaged:
                raise DamagedError(
                    f"no checkpoint of {key!r} is whole: {'; '.join(damaged)}",
                    hint="`verify` takes back what proves whole; `delete` lets go of them all",
                )
            if self.catalog.versions(key).newest <= seen:
                return False
            # Retention removed what was listed, because there are newer ones.

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
        """Remove every checkpoint of `key`, oldest first; absent is fine. BusyError while somebody writes it.

        A fence stays, a small file: versions go on counting, so that nobody who looked before can save after it.
        """
        with self._turn():
            folder = self.catalog.folder(key)
            packs = f"{folder}/packs"
            if not self.storage.entries(folder) and not self.storage.entries(packs):
                return
            with self._holding(key) as (writer, lease):
                # Two fences: the first stops those who looked before, the second those who looked while packs went.
                first = writer.fence()
                versions = self.catalog.versions(key)
                for version in sorted((versions.manifests.keys() | versions.bad) - {first}):
                    self._remove(lease, key, self.catalog.manifest_key(key, version))
                    self.catalog.take_back(key, version)
                for entry in self.storage.entries(packs):
                    self._remove(lease, key, entry.key)
                writer.fence()
                self._remove(lease, key, self.catalog.manifest_key(key, first))
                self.storage.tidy(folder)
                self.storage.tidy(packs)
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
        with _reported(self._facts(writer.name, step)), self._turn() as arena:
            writers = self._here().writers
            if writer in writers:
                # Its memory of its last version is one; unlike `save`, which begins with a new one each time.
                raise BusyError(f"a save of {writer.name!r} is under way in this thread", hint="save later")
            writers.add(writer)
            try:
                return self._stage(writer, data, context, step, metadata or {}, info or {}, arena)()
            finally:
                writers.discard(writer)

    def save_async(
        self, key: str, data: Any, *, step: int | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Promise[Checkpoint]:
        """Copy a state now and write it behind the job's back; `wait()` of the promise gives the checkpoint.

        One save is under way at a time: the next one waits for it, and raises its error unless `wait` has.
        Until `wait` has returned, nothing is promised; an error of which nobody was told is written to standard
        error when the interpreter ends. Inside another save of the same thread it is done at once.
        """
        facts = self._facts(key, step)
        with _reported(facts), self._turn() as arena:
            finish = self._stage(self.writer(key), data, None, step, metadata or {}, {}, arena)

            def work() -> Checkpoint:
                with _reported(facts):
                    return finish()

            desk = self._here()
            if desk.background.is_here or desk.depth > 1:
                promise: Promise[Checkpoint] = Promise()
                promise.keep(work)
                return promise
            return desk.background.start(work)

    def prune(self, key: str, keep: int) -> Sequence[Checkpoint]:
        """Let go all but the `keep` newest good checkpoints of `key`; returns those that are left."""
        options = Options(keep)
        with self._turn():
            if self.catalog.versions(key).manifests:
                with self._holding(key):
                    sweep(self.catalog, key, options.keep)
        return self.list(key)

    def copy(self, key: str, to: CheckpointStore, *, version: int | None = None) -> Sequence[Checkpoint]:
        """Copy the good checkpoints of `key`, or one version, to another store, as they are; goes on if interrupted.

        Returns those that were not there yet. BusyError when somebody writes `key` in the other store, or when
        what it has of `key` does not come from here.
        """
        found = {checkpoint.version: checkpoint for checkpoint in self.list(key)}
        wanted = list(found) if version is None else [version]
        if not wanted or not set(wanted) <= set(found):
            raise CheckpointNotFound(f"there is no checkpoint {key!r} to copy in {self.storage.where}")
        with to._turn():
            return [found[one] for one in transfer.copy(self.catalog, to.catalog, key, wanted)]

    def _stage(
        self,
        writer: Writer,
        data: Any,
        context: Any,
        step: int | None,
        metadata: Mapping[str, Any],
        info: Mapping[str, Any],
        arena: Arena,
    ) -> Callable[[], Checkpoint]:
        """Freeze a state, and say how to finish the save; nothing else may use the arena until that is done."""
        facts = self._facts(writer.name, step)
        started = time.perf_counter()
        plain = _json(metadata)
        state = flatten(data, objects=self._objects)
        snapshot = capture(state, flatten(context, prefix=CONTEXT), arena)
        stall = time.perf_counter() - started
        tell("save.staged", **facts, nbytes=snapshot.nbytes, seconds=stall)

        def finish() -> Checkpoint:
            checkpoint = writer.commit(snapshot, step=step, metadata=plain, info={**info, "stall": stall})
            seconds = time.perf_counter() - started
            size = {"nbytes": checkpoint.nbytes, "written": checkpoint.written}
            tell("save.committed", **facts, version=checkpoint.version, **size, seconds=seconds)
            return checkpoint

        return finish

    def _here(self) -> _Desk:
        """The desk of this process: a forked child cannot wait for its parent's threads."""
        if self._desk.pid != os.getpid():
            self._desk = _Desk()
        return self._desk

    @contextmanager
    def _turn(self) -> Iterator[Arena]:
        """Wait for the other saves of this store; gives the memory for a snapshot.

        Inside another save (a signal handler, a listener, a finalizer) there is nobody to wait for in this thread,
        and the memory is in use: such a save gets its own. The thread behind never waits for a turn, since those
        who have it wait for the thread.
        """
        desk = self._here()
        if desk.background.is_here:
            yield Arena()
            return
        with desk.lock:
            desk.depth += 1
            try:
                if desk.depth > 1:
                    desk.background.settle()
                    yield Arena()
                else:
                    desk.background.drain()
                    yield desk.arena
            finally:
                desk.depth -= 1

    @contextmanager
    def _holding(self, name: str) -> Iterator[tuple[Writer, Lease]]:
        """Hold the lease of a name for a moment; BusyError when another one does."""
        writer, lease = self.writer(name), Lease(self.catalog, name)
        try:
            writer.hold(lease)
            yield writer, lease
        finally:
            lease.release()  # also when `hold` has failed: the file may be there nevertheless

    def _remove(self, lease: Lease, name: str, key: str) -> None:
        if not lease.is_held():
            raise FencedError(f"another writer took {name!r} over meanwhile", hint="try again")
        self.storage.delete(key)

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


def request(into: Any, only: str | Sequence[str], allow: str | Collection[str], trust: bool) -> Request:
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
