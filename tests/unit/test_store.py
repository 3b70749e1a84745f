"""What CheckpointStore promises, one by one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from perdure.errors import (
    BusyError,
    CheckpointNotFound,
    DamagedError,
    MismatchError,
    StateError,
    StorageError,
    UntrustedError,
    UsageError,
)
from perdure.events import Event, listening
from perdure.storage import LocalStorage, MemoryStorage
from perdure.store import CheckpointStore

BIG = 300_000  # float64: more than goes into a manifest


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_versions_and_steps(store: CheckpointStore) -> None:
    for step in (10, 20, 30):
        store.save("k", {"step": step}, step=step, metadata={"loss": 1 / step})
    assert [(one.version, one.step) for one in store.list("k")] == [(3, 30), (2, 20), (1, 10)]
    assert store.load("k") == {"step": 30}
    assert store.load("k", version=1) == {"step": 10}
    assert store.load("k", step=20) == {"step": 20}
    assert store.list("k")[0].metadata == {"loss": 1 / 30}
    for which in ({"version": 9}, {"step": 9}):
        with pytest.raises(CheckpointNotFound):
            store.load("k", **which)


def test_absent_is_a_file_not_found_error(store: CheckpointStore) -> None:
    assert not store.exists("k")
    with pytest.raises(FileNotFoundError, match="no checkpoint 'k'"):
        store.load("k")
    assert store.names() == []


def test_could_not_look_is_never_absent(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "checkpoints").write_text("a file in the way")
    store = CheckpointStore(tmp_path / "store")
    for action in (
        lambda: store.exists("k"),
        lambda: store.load("k"),
        lambda: store.list(),
        lambda: store.save("k", 1),
    ):
        with pytest.raises(StorageError, match="checkpoints"):
            action()


def test_delete_and_clear_leave_what_is_not_ours(store: CheckpointStore, tmp_path: Path) -> None:
    root = tmp_path / "store"
    store.save("a", np.zeros(BIG))
    store.save("b", 2)
    (root / "adaptive_decisions.json").write_text("[]")
    (root / "notes.txt").write_text("mine")
    store.delete("a")
    store.delete("a")
    assert (store.exists("a"), store.load("b")) == (False, 2)
    store.clear_all()
    left = files(root) - {"checkpoints/a/0000000005.manifest", "checkpoints/b/0000000003.manifest"}  # the fences
    assert left == {"adaptive_decisions.json", "notes.txt"}


@pytest.mark.parametrize("keep", [0, -1, 1.5, True, "3"])
def test_keep_must_keep_something(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(UsageError):
        CheckpointStore(tmp_path, keep=keep)


def test_retention_counts_by_number_not_by_text(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for number in range(1, 13):
        store.save("k", number)
    assert [one.version for one in store.list("k")] == [12, 11]
    store = CheckpointStore(tmp_path, keep=None)
    for number in range(13, 20):
        store.save("k", number)
    assert len(store.list("k")) == 9
    assert [one.version for one in store.prune("k", keep=1)] == [19]


def test_unchanged_arrays_are_not_written_again_and_live_as_long_as_needed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    state = {"frozen": np.random.default_rng(0).random(BIG), "head": np.zeros(BIG)}
    first = store.save("k", state)
    state["head"] += 1
    second = store.save("k", state)
    assert first.written > 2 * 8 * BIG > second.written > 8 * BIG
    for _ in range(5):
        state["head"] += 1
        store.save("k", state)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    again = store.load("k")
    assert all(np.array_equal(again[key], state[key]) for key in state)
    assert store.save("k", state).written == 0
    store.delete("k")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_packs_are_safetensors(tmp_path: Path) -> None:
    state = {
        "b": np.arange(5, dtype="i2"),
        "a": np.random.default_rng(0).random((BIG // 10, 10)),
        "c": np.array([True]),
    }
    CheckpointStore(tmp_path).save("k", state)
    (pack,) = tmp_path.rglob("*.safetensors")
    again = load_file(pack)
    assert set(again) == set(state)
    assert all(np.array_equal(again[key], state[key]) for key in state)


def test_both_sides_of_the_inline_limit(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for size, packs in ((2**20, 0), (2**20 + 1, 1)):
        noise = np.random.default_rng(size).integers(0, 256, size, dtype="u1")
        store.save(str(size), noise)
        assert len(list((tmp_path / "checkpoints" / str(size)).rglob("*.safetensors"))) == packs
        assert np.array_equal(store.load(str(size)), noise)


def test_compression(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, compression="zstd:5")
    state = {"zeros": np.zeros(BIG), "noise": np.random.default_rng(0).random(BIG), "empty": np.zeros(0)}
    assert store.save("k", state).written < 8 * BIG  # half of it is zeros
    again = store.load("k")
    assert all(np.array_equal(again[key], state[key]) for key in state)
    with pytest.raises(UsageError, match="lz77"):
        CheckpointStore(tmp_path, compression="lz77")


def test_only_some_leaves(store: CheckpointStore) -> None:
    state = {"model": {"a": np.ones(2), "b": np.zeros(2)}, "opt": {"lr": 0.1, "m": [np.ones(1)]}, "epoch": 3}
    store.save("k", state)
    assert list(store.load("k", only="model")) == ["model"]
    assert store.load("k", only="model/a")["model"].keys() == {"a"}
    assert store.load("k", only=["opt/lr", "epoch"]) == {"opt": {"lr": 0.1}, "epoch": 3}
    live = {"model": {"a": np.zeros(2), "b": np.full(2, 7.0)}, "opt": {"lr": 9.9, "m": []}, "epoch": 0}
    store.load("k", into=live, only="model/a")
    assert live["model"]["a"].tolist() == [1, 1]
    assert (live["model"]["b"].tolist(), live["opt"], live["epoch"]) == ([7, 7], {"lr": 9.9, "m": []}, 0)


def test_into_live_objects(store: CheckpointStore) -> None:
    store.save("k", {"w": np.arange(3.0), "log": [1, 2, 3], "seen": {1, 2}, "n": 5, "free": {"any": 1}})
    live: dict[str, Any] = {"w": np.zeros(3), "log": [], "seen": set(), "n": 0, "free": {}}
    before = dict(live)
    assert store.load("k", into=live) is live
    assert all(live[key] is before[key] for key in ("w", "log", "seen", "free"))
    assert live["w"].tolist() == [0, 1, 2]
    assert (live["log"], live["seen"], live["n"], live["free"]) == ([1, 2, 3], {1, 2}, 5, {"any": 1})


def test_what_does_not_fit_is_named_and_nothing_is_touched(store: CheckpointStore) -> None:
    store.save("k", {"w": np.ones(3), "v": np.ones(2), "gone": 1})
    live = {"w": np.zeros(3), "v": np.zeros(5), "new": 7}
    with pytest.raises(MismatchError) as caught:
        store.load("k", into=live)
    for part in ("new is not in the checkpoint", "gone has no place", "v is saved as <f8[2], live it is <f8[5]"):
        assert part in str(caught.value)
    assert live["w"].tolist() == [0, 0, 0]
    store.load("k", into=live, allow=["missing", "extra", "reshaped"])
    assert (live["w"].tolist(), live["v"].tolist(), live["new"], "gone" in live) == ([1] * 3, [0] * 5, 7, False)
    with pytest.raises(UsageError, match="anything"):
        store.load("k", into=live, allow="anything")


def test_read_only_arrays_are_replaced(store: CheckpointStore) -> None:
    store.save("k", {"w": np.ones(3)})
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    live = {"w": fixed}
    store.load("k", into=live)
    assert live["w"].tolist() == [1, 1, 1]
    assert fixed.tolist() == [0, 0, 0]


@pytest.mark.parametrize("metadata", [{"f": print}, {"o": object()}, {1: {2: b"\xff".decode("latin1")}, "\ud800": 1}])
def test_metadata_is_json(store: CheckpointStore, metadata: Any) -> None:
    with pytest.raises(UsageError):
        store.save("k", 1, metadata=metadata)
    assert not store.exists("k")


def test_numbers_of_numpy_are_numbers(store: CheckpointStore) -> None:
    assert store.save("k", 1, metadata={"a": np.float64(0.5), "b": np.int8(3)}).metadata == {"a": 0.5, "b": 3}


def test_objects_can_be_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, objects="refuse")
    with pytest.raises(StateError, match="a/b is a "):
        store.save("k", {"a": {"b": lambda: 1}})
    with pytest.raises(UsageError):
        CheckpointStore(tmp_path, objects="maybe")  # type: ignore[arg-type]


def test_a_key_of_another_user_is_not_trusted(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("k", {"f": lambda: 5, "w": np.ones(2)})
    monkeypatch.setenv("PERDURE_CONFIG_DIR", str(tmp_path / "another"))
    other = CheckpointStore(tmp_path / "store")
    with pytest.raises(UntrustedError, match="trust=True"):
        other.load("k")
    assert other.load("k", only="w")["w"].tolist() == [1, 1]
    assert other.load("k", trust=True)["f"]() == 5
    other.verify("k")


def test_a_key_shared_by_file_or_environment(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("k", {"f": lambda: 5})
    key = Path(os.environ["PERDURE_CONFIG_DIR"]) / "signing.key"
    assert key.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("PERDURE_CONFIG_DIR", str(tmp_path / "another"))
    monkeypatch.setenv("PERDURE_SIGNING_KEY_FILE", str(key))
    assert CheckpointStore(tmp_path / "store").load("k")["f"]() == 5
    monkeypatch.delenv("PERDURE_SIGNING_KEY_FILE")
    monkeypatch.setenv("PERDURE_SIGNING_KEY", key.read_text())
    assert CheckpointStore(tmp_path / "store").load("k")["f"]() == 5
    monkeypatch.setenv("PERDURE_SIGNING_KEY", "no key at all")
    with pytest.raises(UsageError, match="PERDURE_SIGNING_KEY"):
        CheckpointStore(tmp_path / "store").load("k")


def test_a_key_that_others_can_read_is_refused(store: CheckpointStore) -> None:
    store.save("k", {"f": lambda: 5})
    key = Path(os.environ["PERDURE_CONFIG_DIR"]) / "signing.key"
    key.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        store.load("k")


def test_a_store_travels_to_another_process(store: CheckpointStore) -> None:
    store.save("k", {"w": np.arange(3)})
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_load, (store,)) == [0, 1, 2]


def _load(store: CheckpointStore) -> list[int]:
    return list(store.load("k")["w"].tolist())


def test_threads_of_one_store_lose_nothing(store: CheckpointStore) -> None:
    threads = [
        threading.Thread(target=lambda i=i: [store.save(f"k{i % 2}", {"w": np.full(1000, i)}) for _ in range(10)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("k0", "k1"):
        assert store.list(name)[0].version == 20
        assert len(set(store.load(name)["w"].tolist())) == 1


RIVAL = """
import sys, numpy as np
from perdure.errors import BusyError
from perdure.store import CheckpointStore
store, mark = CheckpointStore(sys.argv[1], keep=None), int(sys.argv[2])
for number in range(30):
    try:
        store.save("k", {"w": np.full(200_000, mark)}, metadata={"mark": mark, "number": number})
        print(number, flush=True)
    except BusyError as error:
        assert "meanwhile" in str(error), error
"""


def test_processes_that_write_one_name_mix_nothing(tmp_path: Path) -> None:
    rivals = [
        subprocess.Popen([sys.executable, "-c", RIVAL, tmp_path, str(mark)], stdout=subprocess.PIPE, text=True)
        for mark in (1, 2, 3)
    ]
    acknowledged = {
        (mark, int(line))
        for mark, rival in zip((1, 2, 3), rivals, strict=True)
        for line in rival.communicate()[0].split()
    }
    assert all(rival.returncode == 0 for rival in rivals)
    store = CheckpointStore(tmp_path)
    found = {(one.metadata["mark"], one.metadata["number"]): one.version for one in store.list("k")}
    assert found.keys() == acknowledged
    assert sorted(found.values()) == list(range(1, len(found) + 1))
    for (mark, _), version in list(found.items())[::7]:
        assert set(store.load("k", version=version)["w"].tolist()) == {mark}


def test_save_async(store: CheckpointStore) -> None:
    array = np.ones(BIG)
    promise = store.save_async("k", {"w": array}, step=1)
    array[:] = 0
    assert promise.wait().version == 1
    assert promise.done
    assert store.load("k")["w"].all()
    store.save_async("k", {"w": array}, step=2)
    assert store.save("k", {"w": array}, step=3).version == 3


def test_an_error_in_the_background_is_told(tmp_path: Path) -> None:
    class Full(LocalStorage):
        broken = False

        def put(self, key: str, chunks: Any, *, if_absent: bool = False) -> int:
            if self.broken:
                raise StorageError("no more")
            return super().put(key, chunks, if_absent=if_absent)

    storage = Full(tmp_path)
    store = CheckpointStore(storage)
    store.save("k", 1)
    storage.broken = True
    with pytest.raises(StorageError, match="no more"):
        store.save_async("k", 2).wait()
    store.save_async("k", 3)
    events: list[Event] = []
    with listening(events.append), pytest.raises(StorageError, match="no more"):
        store.save("k", 4)
    assert events[-1].kind == "save.failed"
    storage.broken = False
    assert store.save("k", 5).version == 2
    assert store.load("k") == 5


def test_copy_goes_on_and_mixes_nothing(store: CheckpointStore, tmp_path: Path) -> None:
    target = CheckpointStore(tmp_path / "copy")
    for step in range(3):
        store.save("k", {"w": np.full(BIG, step), "f": test_copy_goes_on_and_mixes_nothing}, step=step)
    assert [one.version for one in store.copy("k", target, version=2)] == [2]
    assert [one.version for one in store.copy("k", target)] == [1, 3]
    assert store.copy("k", target) == []
    assert files(tmp_path / "copy") == files(tmp_path / "store")
    assert (target.load("k", step=1)["w"] == 1).all()
    other = CheckpointStore(MemoryStorage())
    other.save("k", "something else")
    with pytest.raises(BusyError, match="another version 1"):
        store.copy("k", other)
    with pytest.raises(CheckpointNotFound):
        store.copy("nothing", target)


def test_a_listener_that_fails_breaks_no_save(store: CheckpointStore) -> None:
    def broken(event: Event) -> None:
        raise ValueError("I am a progress bar")

    with listening(broken), pytest.warns(RuntimeWarning, match="I am a progress bar"):
        store.save("k", 1)
    assert store.load("k") == 1


def test_a_forked_child_does_not_wait_for_its_parents_thread(store: CheckpointStore) -> None:
    store.save_async("k", {"w": np.ones(BIG)})
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.save("child", 1)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert store.load("child") == 1
    assert store.save("k", 2).version == 2


def test_verify_sees_the_header_of_a_pack(store: CheckpointStore, tmp_path: Path) -> None:
    store.save("k", np.random.default_rng(0).random(BIG))
    (pack,) = tmp_path.rglob("*.safetensors")
    data = bytearray(pack.read_bytes())
    data[20] ^= 1
    pack.write_bytes(data)
    assert len(store.load("k")) == BIG
    with pytest.raises(DamagedError, match="header is damaged"):
        store.verify("k")
