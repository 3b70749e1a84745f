"""What a demo gives, as plain data, and whether it held what was promised."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ACCURACY = 0.90


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of training. `fate`: "kept", "lost" (ended, but no checkpoint held it) or "killed" (did not end).

    `settled`: its loss is counted already.
    """

    epoch: int
    start: float
    end: float
    fate: str = "kept"
    settled: bool = False

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Saved:
    """A committed checkpoint. `at` is where the training stood, in epochs."""

    time: float
    version: int
    at: float
    seconds: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Kill:
    """A SIGKILL that hit: the process, and the batch it was in."""

    time: float
    pid: int
    epoch: int
    batch: int
    batches: int
    seen_as: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """Going on after a kill.

    `version` is the checkpoint, None when there was none yet; `at` where training goes on, in epochs; `seconds`
    the time to read it. `held` is the training that it held, `redone` the training that was lost, `overhead` what
    saving since the last recovery and reading cost: all in seconds, all measured.
    """

    time: float
    version: int | None
    at: float
    seconds: float
    held: float
    redone: float
    overhead: float


@dataclass(frozen=True, slots=True)
class Row:
    """A decision: seconds that doing the task again would cost, the longest seen, the threshold, and why."""

    time: float
    task: str
    cost: float
    longest: float | None
    threshold: float | None
    save: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Job:
    """One training from beginning to end; times in seconds since its start."""

    title: str
    seconds: float
    store: str
    bars: tuple[Bar, ...]
    saves: tuple[Saved, ...]
    kills: tuple[Kill, ...]
    recoveries: tuple[Recovery, ...]
    decisions: tuple[Row, ...]
    thresholds: tuple[tuple[float, float], ...]
    budget: tuple[int, int] | None
    accuracy: float
    weights: str
    optimizer: str

    @property
    def time_saved(self) -> float:
        """Against starting again from nothing after each kill: training that the restored checkpoints held,
        less all that saving and restoring cost."""
        return sum(recovery.held for recovery in self.recoveries) - self.overhead

    @property
    def overhead(self) -> float:
        """Seconds spent on saving and restoring."""
        return sum(save.seconds for save in self.saves) + sum(recovery.seconds for recovery in self.recoveries)


@dataclass(frozen=True, slots=True)
class Report:
    """The same training twice, with and without kills, and how they compare."""

    kind: str
    data: str
    parameters: int
    epochs: int
    seed: int
    kills_wanted: int
    killed: Job
    undisturbed: Job
    same: bool
    picture: str

    @property
    def faults(self) -> list[str]:
        """What was promised and did not come; empty when all is well."""
        faults = []
        if not self.same:
            faults.append("the weights after the kills differ from those of the undisturbed run")
        if min(self.killed.accuracy, self.undisturbed.accuracy) < ACCURACY:
            faults.append(f"the accuracy on held-out digits is below {ACCURACY:.0%}")
        if len(self.killed.kills) < self.kills_wanted:
            faults.append(f"only {len(self.killed.kills)} of {self.kills_wanted} kills hit")
        return faults

    def plain(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        computed = {
            "ok": not self.faults,
            "faults": self.faults,
            "time_saved": self.killed.time_saved,
            "overhead": self.killed.overhead,
        }
        return {**asdict(self), **computed}
