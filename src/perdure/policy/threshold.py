"""The rule of the controller's specification: runtime against the longest one, while the budget lasts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from perdure.errors import UsageError
from perdure.policy.contract import Decision, Observation

LOWEST, HIGHEST = 0.05, 1.0


@dataclass(slots=True)
class Threshold:
    """Save when runtime / longest runtime seen >= `threshold`, and the budget is not used up.

    `learn` moves the threshold after a recovery. The rule knows neither the failure rate nor the cost of a
    save, and spends the budget on whatever runs first: it is here because it was specified, exactly so.
    """

    threshold: float = 0.35
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise UsageError(
                f"Threshold({self.threshold!r}, {self.learning_rate!r})",
                hint="give finite numbers, the rate >= 0",
            )

    def decide(self, seen: Observation) -> Decision:
        runtime = seen.unsaved_seconds if seen.runtime is None else seen.runtime
        # Nothing seen yet, or nothing that took time: the task is the longest one there is.
        ratio = runtime / seen.longest if seen.longest > 0 else 1.0
        numbers = {"ratio": ratio, "threshold": self.threshold, "longest": seen.longest}
        if seen.budget_left is not None and seen.budget_left <= 0:
            return Decision(False, "the budget is used up", numbers)
        save = ratio >= self.threshold
        sign = ">=" if save else "<"
        return Decision(save, f"ratio {ratio:.3f} {sign} threshold {self.threshold:.3f}", numbers)

    def learn(self, saved: float, overhead: float) -> float:
        """Move the threshold by what a checkpoint saved against what it cost, both in seconds; returns the step.

        benefit = saved - overhead; step = -sign(benefit) * learning_rate * |benefit| / (|benefit| + 1), and the
        threshold stays within [0.05, 1]. Raises UsageError for numbers that are not finite.
        """
        benefit = saved - overhead
        if not math.isfinite(benefit):
            raise UsageError(f"a benefit of {benefit!r} seconds", hint="give finite numbers of seconds")
        step = -math.copysign(self.learning_rate * abs(benefit) / (abs(benefit) + 1), benefit) if benefit else 0.0
        if step:
            self.threshold = min(HIGHEST, max(LOWEST, self.threshold + step))
        return step
