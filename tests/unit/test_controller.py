"""The controller's rule is the specification's, worked by hand; its budget is charged when a save commits."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from perdure import AdaptiveCheckpointController, CheckpointStore, EverySteps
from perdure.errors import PerdureError, StateError, UsageError
from perdure.events import _listeners
from perdure.policy import Decision, Observation, Policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ckpts"


def controller(folder: Path, **options: object) -> AdaptiveCheckpointController:
    return AdaptiveCheckpointController(folder, **options)  # type: ignore[arg-type]


# Runtimes observed so far, estimated cost, threshold, budget and used -> decision, by hand:
# ratio = cost / longest; checkpoint if ratio >= threshold and used < budget.
DECISIONS = [
    ([15.3], 15.3, 0.35, 3, 1, True),  # 1.0 >= 0.35, 1 < 3: the document's own example
    ([15.3], 15.3, 0.35, 3, 3, False),  # the budget is used up
    ([15.3], 15.3, 0.35, 0, 0, False),  # there never was one
    ([10.0], 3.5, 0.35, 3, 0, True),  # 0.35 >= 0.35: the threshold itself counts
    ([10.0], 3.4999, 0.35, 3, 0, False),
    ([10.0, 2.0, 5.0], 3.0, 0.35, 3, 0, False),  # the longest counts, not the last
    ([10.0, 20.0], 6.9, 0.35, 3, 0, False),  # 0.345
    ([10.0, 20.0], 7.1, 0.35, 3, 0, True),  # 0.355
    ([10.0], 25.0, 1.0, 3, 0, True),  # a ratio above 1
    ([10.0], 0.0, 0.05, 3, 0, False),
    ([], 4.0, 0.35, 3, 0, True),  # nothing observed: it is the longest there is
    ([0.0], 0.0, 0.35, 3, 0, True),  # nothing took time: likewise
]


@pytest.mark.parametrize(("runtimes", "cost", "threshold", "budget", "used", "expected"), DECISIONS)
def test_decisions_by_hand(
    folder: Path, runtimes: list[float], cost: float, threshold: float, budget: int, used: int, expected: bool
) -> None:
    one = controller(folder, cost_threshold=threshold, budget_checkpoints=budget)
    one.used = used
    for runtime in runtimes:
        one.observe_task("task", runtime)
    assert one.should_checkpoint("task", cost) is expected
    assert one.used == used + expected


# delta = -sign(benefit) * rate * |benefit| / (|benefit| + 1); threshold clamped to [0.05, 1].
FEEDBACK = [
    (0.35, 0.1, 14.0, 1.0, 0.35 - 0.1 * 13 / 14),  # 0.257: the document's own example
    (0.35, 0.1, 1.0, 3.0, 0.35 + 0.1 * 2 / 3),
    (0.35, 0.1, 1.5, 1.0, 0.35 - 0.1 * 0.5 / 1.5),
    (0.35, 0.1, 2.0, 2.0, 0.35),  # a benefit of 0 changes nothing
    (0.06, 0.1, 100.0, 0.0, 0.05),  # the floor
    (0.98, 0.1, 0.0, 100.0, 1.0),  # the ceiling
    (0.35, 0.5, 1.0, 0.0, 0.35 - 0.5 * 0.5),
    (0.35, 0.0, 9.0, 0.0, 0.35),
]


@pytest.mark.parametrize(("threshold", "rate", "saved", "overhead", "expected"), FEEDBACK)
def test_feedback_by_hand(
    folder: Path, threshold: float, rate: float, saved: float, overhead: float, expected: float
) -> None:
    one = controller(folder, cost_threshold=threshold, learning_rate=rate)
    one.adjust_policy(recovery_time_saved=saved, checkpoint_overhead=overhead)
    assert one.cost_threshold == pytest.approx(expected, abs=1e-12)


def test_a_failed_save_gives_its_unit_back_and_a_committed_one_settles_it(folder: Path) -> None:
    one, store = controller(folder, budget_checkpoints=1), CheckpointStore(folder)
    assert one.should_checkpoint("a", 1.0)
    with pytest.raises(StateError):
        store.save("a", {"lock": threading.Lock()})
    assert one.used == 0
    assert one.should_checkpoint("b", 1.0)
    store.save("b", {"w": np.zeros(3)})
    assert one.used == 1
    assert not one.should_checkpoint("c", 1.0)
    with pytest.raises(PerdureError):
        store.save("", {})
    assert one.used == 1, "nothing was reserved, so nothing is given back"


def test_saves_elsewhere_do_not_count(folder: Path, tmp_path: Path) -> None:
    one = controller(folder, budget_checkpoints=1)
    assert one.should_checkpoint("a", 1.0)
    with pytest.raises(StateError):
        CheckpointStore(tmp_path / "other").save("a", threading.Lock())
    assert one.used == 1


def test_controllers_do_not_pile_up(folder: Path) -> None:
    gc.collect()
    before = len(_listeners)
    for _ in range(5):
        controller(folder)
    gc.collect()
    assert len(_listeners) == before


def test_log_and_summary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = controller(folder)
    one.observe_task("load", 2.0)
    one.should_checkpoint("load", 2.0)
    one.observe_task("small", 0.1)
    one.should_checkpoint("small", 0.1)
    one.adjust_policy(14.0, 1.0)
    assert one.history == [("load", 2.0), ("small", 0.1)]
    assert one.max_time_seen == 2.0
    log = json.loads(Path(one.save_metadata()).read_text())
    assert Path(one.save_metadata()) == folder / "adaptive_decisions.json"
    assert [entry["decision"] for entry in log] == [True, False]
    assert {"task", "est_cost", "max_seen", "threshold", "decision", "timestamp"} <= set(log[0])
    one.summarize()
    out = capsys.readouterr().out
    assert "Budget used: 1/3" in out
    assert "Final threshold: 0.257" in out


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_what_is_no_duration_is_refused_and_changes_nothing(folder: Path, bad: float) -> None:
    one = controller(folder)
    with pytest.raises(UsageError):
        one.observe_task("task", bad)
    with pytest.raises(UsageError):
        one.should_checkpoint("task", bad)
    with pytest.raises(UsageError):
        one.adjust_policy(math.nan, 1.0)
    assert (one.used, one.history, one.decision_log, one.cost_threshold) == (0, [], [], 0.35)


@pytest.mark.parametrize("budget", [-1, 1.5, "3", True])
def test_a_budget_is_a_whole_number(folder: Path, budget: object) -> None:
    with pytest.raises(UsageError):
        controller(folder, budget_checkpoints=budget)


def test_any_policy_behind_the_same_calls(folder: Path) -> None:
    one, store = controller(folder, policy=EverySteps(2), budget_checkpoints=10), CheckpointStore(folder)
    verdicts = []
    for number in range(6):
        one.observe_task("task", 1.0)
        verdicts.append(one.should_checkpoint("task", 1.0))
        if verdicts[-1]:
            store.save("task", number)
    assert verdicts == [False, True] * 3


def test_a_policy_of_ones_own_sees_the_task(folder: Path) -> None:
    seen: list[Observation] = []

    class Mine:
        def decide(self, observation: Observation) -> Decision:
            seen.append(observation)
            return Decision(observation.task == "train", "training is dear")

    assert isinstance(Mine(), Policy)
    one = controller(folder, policy=Mine())
    one.observe_task("load", 1.0)
    assert not one.should_checkpoint("load", 1.0)
    one.observe_task("train", 2.0)
    assert one.should_checkpoint("train", 2.0)
    assert (seen[1].unsaved_steps, seen[1].unsaved_seconds, seen[1].budget_left) == (2, 3.0, 3)
    assert one.decision_log[1]["reason"] == "training is dear"


def test_the_standalone_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "perdure.controller"]
    out = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "Budget used: 3/3" in out
    assert "Final threshold: 0.257" in out
    assert (tmp_path / "ray_ckpts" / "adaptive_decisions.json").exists()
