"""Saves, deletes and copies that meet each other: in one thread, in several, after a fork, across stores."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import perdure
from perdure.catalog import Lease
from perdure.errors import BusyError, DamagedError, FencedError, StorageError, UsageError
from perdure.events import Event, listening
from perdure.storage import LocalStorage, MemoryStorage
from perdure.store import CheckpointStore

BIG = 300_000  # float64: more than goes into a manifest


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


def again(store: CheckpointStore) -> CheckpointStore:
    """The same store as another process sees it."""
    return CheckpointStore(store.storage.where)


def big(value: float) -> dict[str, Any]:
    return {"w": np.full(BIG, float(value))}


def value_of(store: CheckpointStore, name: str = "k", version: int | None = None) -> float:
    (found,) = set(store.load(name, version=version)["w"].tolist())
    return float(found)


def versions(store: CheckpointStore, name: str = "k") -> list[int]:
    return [one.version for one in store.list(name)]


def folder_of(store: CheckpointStore, name: str = "k") -> Path:
    return Path(store.storage.where) / "checkpoints" / name


def damage(store: CheckpointStore, version: int, name: str = "k") -> None:
    path = folder_of(store, name) / f"{version:010d}.manifest"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@contextmanager
def once_on(kind: str, name: str, action: Callable[[], Any]) -> Iterator[list[BaseException]]:
    """Do something, once, in the middle of a save; gives what it raised."""
    raised: list[BaseException] = []
    done = []

    def listener(event: Event) -> None:
        if event.kind == kind and event.data["name"] == name and not done:
            done.append(1)
            try:
                action()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                raised.append(error)

    with listening(listener):
        yield raised


# A save inside a save.


@pytest.mark.parametrize("how", ["save", "save_async"])
def test_a_signal_handler_that_saves_touches_no_byte_of_the_save_under_way(store: CheckpointStore, how: str) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: getattr(store, how)("emergency", big(7)))
    try:
        with once_on("save.staged", "main", lambda: os.kill(os.getpid(), signal.SIGUSR1)) as raised:
            store.save("main", big(1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not raised
    assert (value_of(store, "main"), value_of(store, "emergency")) == (1, 7)
    store.save("main", big(2))
    assert value_of(store, "main") == 2


def test_a_save_inside_a_save_of_the_same_name_fences_the_outer_one(store: CheckpointStore) -> None:
    with once_on("save.staged", "k", lambda: store.save("k", big(7))) as raised, pytest.raises(FencedError):
        store.save("k", big(1))
    assert not raised
    assert (versions(store), value_of(store)) == ([1], 7)


def test_a_run_does_not_save_inside_its_own_save(store: CheckpointStore) -> None:
    writer = store.writer("k")
    with once_on("save.staged", "k", lambda: store.save_with(writer, big(7))) as raised:
        store.save_with(writer, big(1))
    assert [type(error) for error in raised] == [BusyError]
    assert value_of(store) == 1


@pytest.mark.parametrize("how", ["save", "save_async"])
def test_a_listener_may_save_when_a_save_behind_was_committed(store: CheckpointStore, how: str) -> None:
    with once_on("save.committed", "a", lambda: (time.sleep(0.3), getattr(store, how)("b", big(7)))) as raised:
        first = store.save_async("a", big(1))
        second = threading.Thread(target=store.save, args=("c", big(2)), daemon=True)  # waits in the middle of it
        second.start()
        assert first.wait(20).version == 1
        second.join(20)
        assert not second.is_alive()
    assert not raised
    assert [value_of(store, name) for name in "abc"] == [1, 7, 2]


# After a fork.


def in_child(work: Callable[[], Any]) -> int:
    """The status of a child that does it; -14 when it hangs."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(10)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_saves_though_another_thread_was_saving(store: CheckpointStore) -> None:
    staged, forked = threading.Event(), threading.Event()
    with once_on("save.staged", "t", lambda: (staged.set(), forked.wait(30))):
        thread = threading.Thread(target=store.save, args=("t", big(1)))
        thread.start()
        staged.wait()
        status = in_child(lambda: store.save("child", big(2)))
        forked.set()
        thread.join()
    assert status == 0
    assert (value_of(store, "t"), value_of(store, "child")) == (1, 2)


def test_a_child_saves_behind_too(store: CheckpointStore) -> None:
    store.save_async("k", big(1)).wait()
    assert in_child(lambda: store.save_async("child", big(2)).wait(8)) == 0
    assert value_of(store, "child") == 2


# Errors that nobody asked for.

SILENT = """
import os, sys
from perdure.errors import StorageError
from perdure.storage import LocalStorage
from perdure.store import CheckpointStore
class Full(LocalStorage):
    def put(self, key, chunks, **options):
        raise StorageError("no more space")
promise = CheckpointStore(Full(sys.argv[1])).save_async("k", 1)
if sys.argv[2] == "asked":
    try:
        promise.wait()
    except StorageError:
        pass
if sys.argv[2] == "forked":
    while not promise.done:
        pass
    if os.fork():
        os.wait()
        os._exit(0)
"""


@pytest.mark.parametrize("case", ["silent", "asked", "forked"])
def test_the_last_failure_behind_is_said_when_the_interpreter_ends(tmp_path: Path, case: str) -> None:
    done = subprocess.run([sys.executable, "-c", SILENT, tmp_path, case], capture_output=True, text=True, check=True)
    if case == "silent":
        assert done.stderr == "perdure: the last save in the background failed: no more space\n"
    else:
        assert done.stderr == ""


# Delete.


def test_who_looked_before_a_delete_cannot_save_after_it(store: CheckpointStore) -> None:
    store.save("k", big(0))
    writer = store.writer("k")
    again(store).delete("k")
    with pytest.raises(FencedError):
        store.save_with(writer, big(0))
    assert not store.exists("k")
    assert store.save("k", big(1)).version > 2
    assert value_of(store) == 1


def test_who_looked_in_the_middle_of_a_delete_shares_no_pack_that_goes(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("k", big(0))
    other = again(store)
    writers = []
    remove = other.storage.delete

    def delete(key: str) -> None:
        writers.append(store.writer("k"))
        remove(key)

    monkeypatch.setattr(other.storage, "delete", delete)
    other.delete("k")
    assert len(writers) > 2
    for writer in writers[:-2]:  # the last two looked when only fences and the lease were left
        with pytest.raises(FencedError):
            store.save_with(writer, big(0))
    store.save_with(writers[-2], big(0))
    assert value_of(store) == 0


def test_versions_go_on_after_a_delete(store: CheckpointStore) -> None:
    for step in range(3):
        store.save("k", step)
    sleeper, other = store.writer("k"), again(store)
    other.delete("k")
    assert (other.exists("k"), other.list("k"), other.names()) == (False, [], [])
    with pytest.raises(FileNotFoundError):
        other.load("k")
    assert other.save("k", "new").version > 3
    with pytest.raises(FencedError):
        store.save_with(sleeper, "old")
    assert other.load("k") == "new"
    assert other.names() == ["k"]


def test_a_sleeper_that_had_a_lease_is_fenced_by_a_delete(store: CheckpointStore) -> None:
    store.save("k", "old")
    writer, lease = store.writer("k"), Lease(store.catalog, "k")
    writer.hold(lease)
    (folder_of(store) / "lease").unlink()  # another host took over, ended and released
    again(store).delete("k")
    with pytest.raises(FencedError):
        store.save_with(writer, "awake")
    writer.release()
    assert not store.exists("k")


def test_a_delete_takes_marks_and_packs_and_leaves_one_fence(store: CheckpointStore) -> None:
    for step in range(3):
        store.save("k", big(step))
    damage(store, 2)
    with pytest.raises(DamagedError):
        store.load("k", version=2)
    assert (folder_of(store) / "0000000002.bad").exists()
    store.clear_all()
    assert [path.name for path in folder_of(store).rglob("*") if path.is_file()] == ["0000000005.manifest"]


def test_a_mark_that_comes_late_hits_no_new_version(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("k", "old")
    damage(store, 1)
    other, mark = again(store), store.catalog.set_aside

    def late(name: str, version: int, why: str) -> None:
        other.delete("k")
        other.save("k", "new")
        mark(name, version, why)

    monkeypatch.setattr(store.catalog, "set_aside", late)
    with pytest.raises(DamagedError):
        store.load("k")
    assert other.load("k") == "new"
    other.delete("k")
    assert not other.exists("k")


def test_a_delete_and_a_prune_hold_the_lease(store: CheckpointStore) -> None:
    for call in (lambda: store.delete("k"), lambda: store.prune("k", keep=1)):
        for step in range(2):
            store.save("k", step)
        opened, remove = [], store.storage.delete

        def delete(key: str, remove: Any = remove, opened: list[Any] = opened) -> None:
            if not key.endswith("lease"):
                opened.append(1)
                with pytest.raises(BusyError), perdure.Run("k", store=again(store)):
                    pass
            remove(key)

        store.storage.delete = delete  # type: ignore[method-assign]
        call()
        store.storage.delete = remove  # type: ignore[method-assign]
        assert opened
        assert not (folder_of(store) / "lease").exists()


def test_nothing_is_made_for_a_name_that_never_was(store: CheckpointStore) -> None:
    store.delete("k")
    store.prune("k", keep=1)
    store.clear_all()
    assert not Path(store.storage.where).exists()


# Copy.


def test_a_copy_mixes_no_two_chains(tmp_path: Path) -> None:
    for here, there in ((3, 6), (6, 3), (1, 4)):
        source, target = (CheckpointStore(tmp_path / f"{here}{there}{which}") for which in "st")
        for step in range(here):
            source.save("k", f"source {step}")
        for step in range(there):
            target.save("k", f"target {step}")
        before = versions(target)
        with pytest.raises(BusyError):
            source.copy("k", target)
        assert versions(target) == before


def test_a_copy_that_went_on_by_itself_gets_no_more(store: CheckpointStore, tmp_path: Path) -> None:
    target = CheckpointStore(tmp_path / "target")
    for step in range(3):
        store.save("k", step)
    assert [one.version for one in store.copy("k", target, version=2)] == [2]
    target.save("k", "its own")
    store.prune("k", keep=1)
    store.save("k", 4)
    with pytest.raises(BusyError):
        store.copy("k", target)


def test_a_backup_keeps_what_its_source_lets_go(store: CheckpointStore, tmp_path: Path) -> None:
    target = CheckpointStore(tmp_path / "target", keep=None)
    for step in range(8):
        store.save("k", big(step))
        assert [one.version for one in store.copy("k", target)] == [step + 1]
    assert versions(target) == list(range(8, 0, -1))
    assert [value_of(target, version=version) for version in versions(target)] == list(range(7, -1, -1))


def test_a_copy_goes_on_after_its_process_was_killed(store: CheckpointStore, tmp_path: Path) -> None:
    for step in range(3):
        store.save("k", big(step))
    target = CheckpointStore(tmp_path / "target")
    store.copy("k", target, version=1)
    code = "import sys, os; from perdure.catalog import Lease; from perdure.store import CheckpointStore; "
    code += "Lease(CheckpointStore(sys.argv[1]).catalog, 'k').acquire(print); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "target"], check=True)
    assert (folder_of(target) / "lease").exists()
    assert [one.version for one in store.copy("k", target)] == [2, 3]
    assert not (folder_of(target) / "lease").exists()


def test_a_copy_leaves_a_run_alone(store: CheckpointStore, tmp_path: Path) -> None:
    store.save("r", {"n": 1})
    store.save("r", {"n": 2})
    target = CheckpointStore(tmp_path / "target")
    with perdure.Run("r", {"n": 0}, store=target, policy=perdure.EverySteps(1)) as run:
        for _ in run.range(3):
            with pytest.raises(BusyError, match="open already"):
                store.copy("r", target)
            run.state["n"] += 1
            run.step()
    assert target.load("r") == {"n": 3}


def test_one_who_saves_into_the_target_of_a_copy_breaks_nothing(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(3):
        store.save("k", big(step))
    for step in range(2):
        store.prune("k", keep=2 - step)
    target = CheckpointStore(tmp_path / "target")
    other = again(target)
    writer = other.writer("k")
    put = target.storage.put

    def late(key: str, chunks: Any, **options: Any) -> int:
        written = put(key, chunks, **options)
        if "/packs/" in key and not other.catalog.versions("k").manifests:
            # It had looked whether a lease is there just before the copy took it.
            with monkeypatch.context() as patch:
                patch.setattr("perdure.catalog.writer.refuse_if_held", lambda *_: None)
                other.save_with(writer, "another")
        return written

    monkeypatch.setattr(target.storage, "put", late)
    with pytest.raises(BusyError, match="meanwhile"):
        store.copy("k", target)
    assert versions(other) == [1]
    assert other.load("k") == "another"


def test_what_was_deleted_does_not_come_back_below_its_fence(store: CheckpointStore, tmp_path: Path) -> None:
    target = CheckpointStore(tmp_path / "target")
    for step in range(2):
        store.save("k", step)
    store.copy("k", target)
    target.delete("k")
    with pytest.raises(BusyError, match="deleted") as caught:
        store.copy("k", target)
    assert "empty store" in caught.value.hint
    for step in range(4):
        store.save("k", step)
    assert [one.version for one in store.copy("k", target, version=6)] == [6]


# What is there.


def test_only_damaged_ones_are_not_absent(store: CheckpointStore) -> None:
    for step in range(2):
        store.save("k", step)
    damage(store, 2)
    assert store.exists("k")
    damage(store, 1)
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"version 2: .*version 1: ") as caught:
            store.exists("k")
        assert "delete" in caught.value.hint
        with pytest.raises(DamagedError):
            store.load("k")  # sets them aside
    store.delete("k")
    assert not store.exists("k")


def test_what_retention_removes_in_the_middle_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save("k", 1)
    other, read = again(store), store.storage.read
    other.options = store.options
    done = []

    def late(key: str, *where: Any) -> bytes:
        if not done:
            done.append(other.save("k", 2))
        return read(key, *where)

    monkeypatch.setattr(store.storage, "read", late)
    assert store.exists("k")


def test_a_store_in_memory_does_not_travel(tmp_path: Path) -> None:
    for where in (MemoryStorage("mine"), "memory://travel"):
        with pytest.raises(UsageError, match="memory") as caught:
            pickle.dumps(CheckpointStore(where))
        assert "directory" in caught.value.hint
    assert pickle.loads(pickle.dumps(CheckpointStore(tmp_path))).storage.where == str(tmp_path)


def test_an_interrupted_delete_is_finished_by_the_next(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("k", big(1))
    store.save("k", big(2))

    def broken(self: LocalStorage, key: str) -> None:
        if "/packs/" in key:
            raise StorageError("no")
        delete(self, key)

    delete = LocalStorage.delete
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(LocalStorage, "delete", broken)
        store.delete("k")
    assert not store.exists("k")
    assert not (folder_of(store) / "lease").exists()
    store.delete("k")
    assert not list(folder_of(store).rglob("*.safetensors"))
    assert store.save("k", big(3)).version > 2
