"""The contract of a policy: pure, fast, and able to say why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known at a safe point. Times in seconds; None where nothing is known yet.

    step: safe points passed, this one included. unsaved_steps, unsaved_seconds: work since the last
    checkpoint, or since the start. save_seconds: how long the job stood still for the last save.
    task, runtime: the task (or step) that just ended and how long it took; longest: the longest so far.
    budget_left: saves still allowed.
    """

    step: int
    unsaved_steps: int
    unsaved_seconds: float
    save_seconds: float | None = None
    task: str | None = None
    runtime: float | None = None
    longest: float = 0.0
    budget_left: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to save now, the reason in words, and the numbers behind it."""

    save: bool
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Policy(Protocol):
    """Decides at every safe point."""

    def decide(self, seen: Observation) -> Decision:
        """Whether to save now. Reads no clock, writes nothing, takes microseconds."""
        ...
