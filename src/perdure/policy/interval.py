"""Save every so many steps or seconds, or so that saving takes no more than a share of the time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from perdure.errors import UsageError
from perdure.policy.contract import Decision, Observation


@dataclass(frozen=True, slots=True)
class EverySteps:
    """Save once `steps` safe points have passed since the last checkpoint."""

    steps: int

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise UsageError(f"EverySteps({self.steps!r})", hint="give a whole number of at least 1")

    def decide(self, seen: Observation) -> Decision:
        save = seen.unsaved_steps >= self.steps
        return Decision(save, f"{seen.unsaved_steps} of {self.steps} steps since the last checkpoint")


@dataclass(frozen=True, slots=True)
class EverySeconds:
    """Save once `seconds` have passed since the last checkpoint."""

    seconds: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise UsageError(f"EverySeconds({self.seconds!r})", hint="give a number of seconds, 0 or more")

    def decide(self, seen: Observation) -> Decision:
        save = seen.unsaved_seconds >= self.seconds
        return Decision(save, f"{seen.unsaved_seconds:.1f} of {self.seconds:g} s since the last checkpoint")


@dataclass(frozen=True, slots=True)
class OverheadCap:
    """Save as often as possible without spending more than `share` of the time on it, 0 < share <= 1.

    The first safe point saves, which measures what a save costs; from then on the work between two saves takes
    at least cost / share seconds. The idea is CheckFreq's (Mohan et al., FAST 2021).
    """

    share: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"OverheadCap({self.share!r})", hint="give a share of the time, such as 0.02")

    def decide(self, seen: Observation) -> Decision:
        if seen.save_seconds is None:
            return Decision(True, "the first save shows what one costs")
        due = seen.save_seconds / self.share
        save = seen.unsaved_seconds >= due
        return Decision(save, f"{seen.unsaved_seconds:.1f} of {due:.1f} s between saves", {"due": due})
