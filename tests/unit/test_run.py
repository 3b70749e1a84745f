"""A run goes on exactly where it stopped, leaves with the right status, and is refused to a second writer."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import perdure.catalog.lease as leases
from perdure import CheckpointStore, EverySteps, Run, Threshold
from perdure.catalog.lease import Clock, Holder, Lease
from perdure.errors import BusyError, CheckpointNotFound, FencedError, MismatchError, StorageError, UsageError
from perdure.events import Event, listening
from perdure.notice import NOTICE, Notice
from perdure.storage import MemoryStorage


class Die(Exception):
    """Stands for a kill: nothing is saved on the way out."""


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(MemoryStorage())


def opened(store: CheckpointStore, state: Any = None, **options: Any) -> Run:
    return Run("r", state, store=store, policy=EverySteps(1), **options)


# Where it goes on.


def seed() -> None:
    random.seed(5)
    np.random.seed(5)


def nested(store: CheckpointStore, stop_at: int, every: int = 1) -> list[float]:
    """Loops in loops and one after the other, with random numbers at every turn; dies at a step."""
    state: dict[str, Any] = {"a": []}
    with Run("r", state, store=store, policy=EverySteps(every)) as run:
        steps = 0

        def step(value: float) -> None:
            nonlocal steps
            state["a"].append(value + random.random())
            run.step()
            steps += 1
            if steps == stop_at:
                raise Die

        split = np.random.random()
        for _ in run.range(2):
            step(split)
        between = random.random()
        for epoch in run.range(3):
            order = np.random.permutation(4)
            for index in run.range(4):
                if index == 2 and epoch == 1:
                    break
                step(epoch + order[index] + split)
            middle = np.random.random()
            for item in run.each(random.sample(range(9), 3)):
                for _ in run.range(item % 2):
                    step(between)
                step(item + middle)
            state["a"].append(random.random())
            step(middle)
        random.random()
        state["a"].append(between)
    return list(run.state["a"])


@pytest.mark.parametrize("every", [1, 3])
def test_a_run_that_dies_at_any_step_ends_like_one_that_did_not(every: int) -> None:
    seed()
    expected = nested(CheckpointStore(MemoryStorage()), -1)
    for number in range(1, 60):
        store = CheckpointStore(MemoryStorage())
        seed()
        try:
            nested(store, number, every)
            break
        except Die:
            if store.exists("r"):
                random.seed(number)
                np.random.seed(number)
            else:
                seed()
        assert nested(store, -1, every) == expected, number
    assert number > 25


def test_a_run_that_dies_at_every_step_ends_like_one_that_did_not(store: CheckpointStore) -> None:
    seed()
    expected = nested(CheckpointStore(MemoryStorage()), -1)
    seed()
    for number in range(100):
        try:
            found = nested(store, 1)
            break
        except Die:
            random.seed(number)
            np.random.seed(number)
    assert found == expected


def count(store: CheckpointStore, end: int, stop_at: int | None = None, **options: Any) -> list[int]:
    done = []
    with opened(store, {"n": 0}, **options) as run:
        for index in run.range(end):
            if index == stop_at:
                raise Die
            done.append(index)
            run.state["n"] += 1
            run.step()
    assert run.state["n"] == end
    return done


def test_a_finished_run_yields_nothing_and_a_longer_range_goes_on(store: CheckpointStore) -> None:
    assert count(store, 3) == [0, 1, 2]
    version = store.list("r")[0].version
    assert count(store, 3) == []
    assert store.list("r")[0].version == version, "there was nothing to save"
    assert count(store, 5) == [3, 4]
    assert count(store, 5) == []


@pytest.mark.filterwarnings("ignore:.*no step")
def test_ranges_have_all_the_arguments_of_the_built_in_one(store: CheckpointStore) -> None:
    with pytest.raises(Die), opened(store) as run:
        for index in run.range(10, 0, -3):
            if index == 4:
                raise Die
            run.step()
    with opened(store) as run:
        assert list(run.range(10, 0, -3)) == [4, 1]


def test_an_item_without_a_step_is_not_done(store: CheckpointStore) -> None:
    with pytest.raises(Die):
        count(store, 4, stop_at=2)
    assert count(store, 4) == [2, 3]


def test_two_steps_in_one_item_are_one_item(store: CheckpointStore) -> None:
    seen = []
    with pytest.raises(Die), opened(store, {}) as run:
        for _ in run.range(5):
            run.step()
            run.step()
            raise Die
    with opened(store, {}) as run:
        for index in run.range(5):
            seen.append(index)
            run.step()
            run.step()
    assert seen == [1, 2, 3, 4]
    assert run.steps == 10


def test_a_loop_left_by_break_is_complete(store: CheckpointStore) -> None:
    for expected in ([0, 1], []):
        seen = []
        with opened(store, {}) as run:
            for index in run.range(5):
                seen.append(index)
                run.step()
                if index == 1:
                    break
        assert seen == expected


def test_an_exception_saves_nothing(store: CheckpointStore) -> None:
    with pytest.raises(Die), Run("r", {"n": 0}, store=store, policy=EverySteps(10)) as run:
        for _ in run.range(5):
            run.state["n"] += 1
            run.step()
            raise Die
    assert not store.exists("r")
    with pytest.raises(CheckpointNotFound):
        store.load("r")


def test_what_comes_after_the_loops_is_saved_at_the_end(store: CheckpointStore) -> None:
    with opened(store, {}) as run:
        for _ in run.range(2):
            run.step()
        run.state["result"] = 5
    assert store.load("r") == {"result": 5}


def test_what_comes_after_the_loops_is_saved_when_only_that_was_left(store: CheckpointStore) -> None:
    with pytest.raises(Die), opened(store, {}) as run:
        for _ in run.range(2):
            run.step()
        raise Die
    with opened(store, {}) as run:
        assert list(run.range(2)) == []
        run.state["result"] = 5
    assert store.load("r") == {"result": 5}


def test_one_object_can_be_opened_again(store: CheckpointStore) -> None:
    run = opened(store, {"n": 0})
    for _ in range(2):
        with run:
            for _ in run.range(3):
                run.state["n"] += 1
                run.step()
    assert run.state["n"] == 3
    assert run.steps == 3


def test_it_resumes_in_place(store: CheckpointStore) -> None:
    count(store, 3)
    state = {"n": 0}
    with opened(store, state) as run:
        assert run.state is state
        assert state["n"] == 3
        assert run.resumed_from is not None
        assert run.resumed_from.step == run.steps == 3


class Loader:
    """A source that hands out its own state."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < 6:
            self.at += 1
            yield self.at * 10
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_a_source_with_state_is_set_to_it(store: CheckpointStore, stop_at: int) -> None:
    def work(stop_at: int) -> list[Any]:
        with opened(store, {"seen": []}) as run:
            loader = Loader()
            for epoch in run.range(2):
                for item in run.each(loader):
                    run.state["seen"].append((epoch, item))
                    run.step()
                    if len(run.state["seen"]) == stop_at:
                        raise Die
        return list(run.state["seen"])

    with pytest.raises(Die):
        work(stop_at)
    assert work(-1) == [(epoch, item * 10) for epoch in range(2) for item in range(1, 7)]


@pytest.mark.filterwarnings("ignore:.*no step")
@pytest.mark.filterwarnings("ignore:run 'r'. no array:RuntimeWarning")
@pytest.mark.parametrize("own", [False, True], ids=["global generator", "own generator"])
def test_a_shuffling_data_loader_goes_on_with_the_same_batches(own: bool) -> None:
    torch = pytest.importorskip("torch")

    def work(store: CheckpointStore, stop_at: int) -> list[Any]:
        data = torch.utils.data.TensorDataset(torch.arange(10))
        generator = torch.Generator().manual_seed(3) if own else None
        loader = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True, generator=generator)
        with opened(store, {"seen": [], "generator": generator}) as run:
            for _ in run.range(2):
                for (batch,) in run.each(loader):
                    run.state["seen"].append((batch.tolist(), torch.rand(1).item()))
                    run.step()
                    if len(run.state["seen"]) == stop_at:
                        raise Die
        return list(run.state["seen"])

    torch.manual_seed(1)
    expected = work(CheckpointStore(MemoryStorage()), -1)
    for stop_at in range(1, 9):
        store = CheckpointStore(MemoryStorage())
        torch.manual_seed(1)
        with pytest.raises(Die):
            work(store, stop_at)
        torch.manual_seed(99)
        assert work(store, -1) == expected


def test_data_that_has_shrunk_is_a_mismatch(store: CheckpointStore) -> None:
    def work(items: list[int], stop: bool) -> None:
        with opened(store, {}) as run:
            for item in run.each(items):
                run.step()
                if stop and item == 3:
                    raise Die

    with pytest.raises(Die):
        work([1, 2, 3, 4], True)
    with pytest.raises(MismatchError, match="gave 2 items, and 3 were done"):
        work([1, 2], False)


# What does not fit.


def test_a_state_that_does_not_fit_is_named_and_nothing_is_touched(store: CheckpointStore) -> None:
    with opened(store, {"w": np.ones(3), "old": 1}) as run:
        run.step()
    live = {"w": np.zeros(4), "new": 2}
    with pytest.raises(MismatchError) as caught, opened(store, live):
        pass
    for words in ("w is saved as <f8[3], live it is <f8[4]", "old has no place", "new is not in the checkpoint"):
        assert words in str(caught.value)
    assert live["w"].tolist() == [0] * 4
    assert live.keys() == {"w", "new"}
    assert leases.read_holder(store.storage, "checkpoints/r/lease") is None
    with opened(store, live, allow=["missing", "extra", "reshaped"]):
        assert live["w"].tolist() == [0] * 4
    with pytest.raises(MismatchError), opened(store, {"w": np.zeros(5)}, allow="missing"):
        pass


def test_usage(store: CheckpointStore) -> None:
    run = opened(store)
    with pytest.raises(UsageError, match="not open"):
        run.step()
    with run, pytest.raises(UsageError, match="open already"), run:
        pass


# Signals.


def script(body: str) -> str:
    return (
        "import os, signal, sys, time\nimport perdure\n"
        "def kill(number=signal.SIGTERM): os.kill(os.getpid(), number)\n" + body
    )


def run_script(root: Path, body: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script(body)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


LOOP = """
data = {"n": 0}
with perdure.Run("r", data, store="store") as run:
    for index in run.range(6):
        data["n"] += 1
        if index == 3 and run.resumed_from is None: kill(SIGNAL)
        run.step()
print(data["n"], run.steps)
"""


@pytest.mark.parametrize("number", ["signal.SIGTERM", "signal.SIGINT"])
def test_a_signal_leaves_with_85_and_a_checkpoint(tmp_path: Path, number: str) -> None:
    first = run_script(tmp_path, LOOP.replace("SIGNAL", number))
    assert (first.returncode, first.stdout) == (85, "")
    assert "run 'r' is saved after step 4" in first.stderr
    assert CheckpointStore(tmp_path / "store").load("r") == {"n": 4}
    second = run_script(tmp_path, LOOP.replace("SIGNAL", number))
    assert (second.returncode, second.stdout) == (0, "6 6\n")


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_anything_leaves_with_its_own_status(store: CheckpointStore, number: int) -> None:
    with pytest.raises(SystemExit) as caught, opened(store, {}) as run:
        send(number)
        for _ in run.range(3):
            raise AssertionError("an item was begun")
    assert caught.value.code == 128 + number
    assert not store.exists("r")


def test_a_signal_when_all_is_saved_waits_for_no_step(store: CheckpointStore) -> None:
    with pytest.raises(SystemExit) as caught, opened(store, {}) as run:
        for index in run.range(3):
            assert index == 0
            run.step()
            send(signal.SIGTERM)
    assert caught.value.code == 85
    assert store.load("r") == {}


def test_a_signal_in_the_last_item_saves_the_end_and_leaves(store: CheckpointStore) -> None:
    with pytest.raises(SystemExit) as caught, Run("r", {"n": 0}, store=store, policy=EverySteps(9)) as run:
        for _ in run.range(1):
            run.state["n"] = 7
            run.step()
        send(signal.SIGTERM)
    assert caught.value.code == 85
    assert store.load("r") == {"n": 7}
    assert not NOTICE


class Full(MemoryStorage):
    full = False

    def put(self, key: str, chunks: Any, *, if_absent: bool = False) -> int:
        if self.full and key.endswith(".manifest"):
            raise StorageError("no space left")
        return super().put(key, chunks, if_absent=if_absent)


def test_a_save_on_notice_that_fails_leaves_with_74(capsys: pytest.CaptureFixture[str]) -> None:
    storage = Full()
    store = CheckpointStore(storage)
    with pytest.raises(SystemExit) as caught, opened(store, {"n": 0}) as run:
        for index in run.range(3):
            run.state["n"] += 1
            if index == 1:
                storage.full = True
                send(signal.SIGTERM)
            run.step()
    assert caught.value.code == 74
    assert "no space left" in capsys.readouterr().err
    assert store.load("r") == {"n": 1}


def test_a_second_sigterm_is_harmless(store: CheckpointStore) -> None:
    with pytest.raises(SystemExit) as caught, opened(store, {"n": 0}) as run:
        for _ in run.range(3):
            send(signal.SIGTERM)
            send(signal.SIGTERM)
            run.state["n"] += 1
            run.step()
    assert caught.value.code == 85
    assert store.load("r") == {"n": 1}


def test_a_second_sigint_is_an_interrupt_within_two_seconds(store: CheckpointStore) -> None:
    with pytest.raises(KeyboardInterrupt), opened(store, {"n": 0}) as run:
        for _ in run.range(3):
            send(signal.SIGINT)
            send(signal.SIGINT)
            raise AssertionError("not interrupted")
    assert not store.exists("r")
    now = [0.0]
    notice = Notice(lambda: now[0])
    with notice.listening():
        for now[0] in (10.0, 12.1):
            send(signal.SIGINT)
            assert notice
        now[0] = 14.0
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert not notice


def test_handlers_are_chained_and_put_back(store: CheckpointStore) -> None:
    calls: list[int] = []

    def mine(number: int, frame: Any) -> None:
        calls.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(SystemExit), opened(store, {}) as run:
            with opened(CheckpointStore(MemoryStorage()), {}):
                pass
            assert signal.getsignal(signal.SIGTERM) != mine
            send(signal.SIGTERM)
            run.step()
        assert calls == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_child_does_not_heed_and_does_not_save(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path,
        """
with perdure.Run("r", {"n": 0}, store="store", policy=perdure.EverySteps(1)) as run:
    run.step()
    child = os.fork()
    if child == 0:
        try:
            run.step()
        except perdure.PerdureError as error:
            os.write(1, f"{error.kind}\\n".encode())
        kill()
        time.sleep(30)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    run.step()
print(run.steps)
""",
    )
    assert (ended.returncode, ended.stdout) == (0, "busy\n-15\n2\n"), ended.stderr


def test_a_forked_child_has_runs_of_its_own(tmp_path: Path) -> None:
    ended = run_script(
        tmp_path,
        """
with perdure.Run("r", {"n": 0}, store="store") as run:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with perdure.Run("child", {"n": 1}, store="store", policy=perdure.EverySteps(9)) as mine:
                for index in mine.range(3):
                    kill()
                    mine.step()
        except SystemExit as stop:
            code = stop.code
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
    )
    assert (ended.returncode, ended.stdout) == (0, "85\n"), ended.stderr
    assert CheckpointStore(tmp_path / "store").load("child") == {"n": 1}


def test_a_run_works_in_a_thread(store: CheckpointStore) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    found: list[list[int]] = []
    thread = threading.Thread(target=lambda: found.append(count(store, 3)))
    thread.start()
    thread.join()
    assert found == [[0, 1, 2]]
    assert signal.getsignal(signal.SIGTERM) is handler


# One writer.


def test_the_same_run_twice_in_a_process_is_refused(store: CheckpointStore) -> None:
    with opened(store, {}):
        with pytest.raises(BusyError, match="this process has 'r' open already"), opened(store, {}):
            pass
        with pytest.raises(BusyError, match="open already"):
            store.save("r", 1)
        with pytest.raises(BusyError, match="open already"):
            store.delete("r")
        with opened(CheckpointStore(MemoryStorage()), {}):
            pass
    store.save("r", 1)


HOLD = """
with perdure.Run("r", {"n": 0}, store="store", policy=perdure.EverySteps(1)) as run:
    for index in run.range(5):
        run.state["n"] += 1
        run.step()
        if index == 2:
            print("held", flush=True)
            sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", script(HOLD)], cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    store = CheckpointStore(tmp_path / "store")
    with (
        pytest.raises(BusyError, match=rf"process {holder.pid} on .* is writing 'r'") as caught,
        opened(store, {"n": 0}),
    ):
        pass
    assert caught.value.exit_code == 75
    with pytest.raises(BusyError, match=f"process {holder.pid}"):
        store.save("r", 1)
    assert store.load("r") == {"n": 3}, "reading is free"
    stopped = run_script(tmp_path, "with perdure.Run('r', {'n': 0}, store='store'): pass")
    assert "BusyError" in stopped.stderr
    holder.communicate("go\n")
    assert holder.returncode == 0
    assert count(store, 5) == []


def test_the_run_of_a_killed_process_is_taken_over_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    events: list[Event] = []
    with listening(events.append):
        assert count(CheckpointStore(tmp_path / "store"), 5) == [3, 4]
    assert "lease.taken-over" in [event.kind for event in events]
    assert "lease.waiting" not in [event.kind for event in events]


def test_a_stopped_process_still_holds_its_run(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(BusyError), opened(CheckpointStore(tmp_path / "store"), {"n": 0}):
        pass
    holder.send_signal(signal.SIGCONT)


FAR = Holder("token", "0123456789-1-1", "process 1 on elsewhere", 60.0, 3)


class Later:
    """A clock that waiting moves on, and what happens meanwhile."""

    def __init__(self, happen: Callable[[float], None] = lambda now: None) -> None:
        self.now = 0.0
        self.happen = happen

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.happen(self.now)

    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.wait)


def put_lease(store: CheckpointStore, holder: Holder) -> None:
    store.storage.put("checkpoints/r/lease", [msgspec.json.encode(holder)])


def test_a_holder_elsewhere_is_watched_for_its_whole_ttl(store: CheckpointStore) -> None:
    store.save("r", 1)
    put_lease(store, FAR)
    later = Later()
    writer = store.writer("r")
    lease = Lease(store.catalog, "r", clock=later.clock())
    writer.hold(lease)
    assert later.now >= 60
    assert lease.is_held()
    writer.release()
    assert [found.is_fence for found in store.catalog.survey("r")] == [True, False]
    assert store.load("r") == 1


def test_a_holder_elsewhere_that_lives_is_left_alone(store: CheckpointStore) -> None:
    put_lease(store, FAR)

    def renew(now: float) -> None:
        if now > 40:
            put_lease(store, Holder("token", FAR.tag, FAR.who, 60.0, 4))

    with pytest.raises(BusyError, match="process 1 on elsewhere"):
        store.writer("r").hold(Lease(store.catalog, "r", clock=Later(renew).clock()))


@pytest.mark.parametrize("saves", range(8))
def test_a_writer_that_was_asleep_cannot_commit(store: CheckpointStore, saves: int) -> None:
    """However much the next holder has saved, and retention has removed, since."""
    asleep = store.writer("r")
    store.save_with(asleep, "first")
    lease = Lease(store.catalog, "r")
    asleep.hold(lease)
    put_lease(store, FAR)  # what is left of a lease when its holder sleeps on another host
    taker = store.writer("r")
    taker.hold(Lease(store.catalog, "r", clock=Later().clock()))
    for number in range(saves):
        store.save_with(taker, f"taker {number}")
    expected = f"taker {saves - 1}" if saves else "first"
    for _ in range(2):
        with pytest.raises(FencedError, match="another writer has saved version"):
            store.save_with(asleep, "asleep")
        assert store.load("r") == expected
    assert all(store.load("r", version=one.version) != "asleep" for one in store.list("r"))
    store.save_with(taker, "goes on")
    taker.release()
    asleep.release()
    assert store.load("r") == "goes on"


def test_of_two_that_take_over_at_once_one_gets_it(store: CheckpointStore) -> None:
    store.save("r", 0)
    put_lease(store, Holder("gone", f"{leases.current().scope}-1-1", "a dead one", 60.0, 1))
    writers = [store.writer("r") for _ in range(4)]
    results = []
    for writer in writers:
        try:
            writer.hold(Lease(store.catalog, "r"))
            results.append(writer)
        except BusyError:
            pass
    assert len(results) == 1
    store.save_with(results[0], 1)
    results[0].release()
    assert store.load("r") == 1


def test_the_lease_is_renewed_while_it_is_held(store: CheckpointStore) -> None:
    lease = Lease(store.catalog, "r", ttl=0.03)
    lease.acquire(lambda: None)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        holder = leases.read_holder(store.storage, "checkpoints/r/lease")
        if holder is not None and holder.beat >= 3:
            break
        time.sleep(0.01)
    assert holder is not None
    assert holder.beat >= 3
    lease.release()
    assert leases.read_holder(store.storage, "checkpoints/r/lease") is None


def test_a_policy_must_decide(store: CheckpointStore) -> None:
    with pytest.raises(UsageError, match="100 is no policy"):
        Run("r", store=store, policy=100)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="mising"):
        Run("r", store=store, allow="mising")


def test_metrics_that_are_no_numbers_are_named_and_nan_is_seen(store: CheckpointStore) -> None:
    with pytest.raises(UsageError, match="metric 'grad'"), Run("r", {"n": 0}, store=store) as run:
        for _ in run.range(1):
            run.step(grad=np.zeros(3))
    with Run("s", {"n": 0}, store=store) as run:
        for _ in run.range(1):
            run.step(loss=float("nan"))
    assert store.list("s")[0].metadata == {"metrics": {"loss": "nan"}}


def test_the_rule_of_the_controller_in_a_run(store: CheckpointStore) -> None:
    now = 0.0
    policy = Threshold(0.5)
    with Run("r", {"n": 0}, store=store, policy=policy, clock=lambda: now) as run:
        for index in run.range(3):
            now += (10.0, 1.0, 9.0)[index]
            run.step()
    assert [one.decision.save for one in run.decisions] == [True, False, True]


SCRIPT_CLASS = """
import sys, perdure
class Population:
    def __init__(self): self.n = 0
    def evolve(self): self.n += STEP
population = Population()
with perdure.Run("r", {"p": population}, store="store", policy=perdure.EverySteps(1)) as run:
    for _ in run.range(int(sys.argv[1])):
        population.evolve()
        run.step()
print(population.n, type(population) is Population)
"""


def test_a_class_of_the_script_itself_is_restored_in_place_with_its_new_code(tmp_path: Path) -> None:
    for step, items, expected in (("1", "3", "3 True\n"), ("1000", "5", "2003 True\n")):
        code = SCRIPT_CLASS.replace("STEP", step)
        (tmp_path / "job.py").write_text(code)
        done = subprocess.run(
            [sys.executable, "job.py", items], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout == expected


def test_an_earlier_handler_that_exits_does_not_cost_the_save(store: CheckpointStore) -> None:
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
    try:
        with pytest.raises(SystemExit) as caught, Run("r", {"n": 0}, store=store) as run:
            for _ in run.range(3):
                run.state["n"] += 1
                send(signal.SIGTERM)
                run.step()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 85
    assert store.load("r") == {"n": 1}
