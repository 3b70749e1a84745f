"""The adaptive checkpoint controller: one question a task, a budget, and feedback after a recovery."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import weakref
from pathlib import Path
from typing import Any, TextIO

from perdure.errors import UsageError
from perdure.events import Event, subscribe
from perdure.policy import Observation, Policy, Threshold
from perdure.storage import LocalStorage


class AdaptiveCheckpointController:
    """Decides which tasks of a pipeline are worth a checkpoint.

    The default rule is the specification's: ratio = estimated cost / longest runtime seen; save when
    ratio >= `cost_threshold` and fewer than `budget_checkpoints` are used. `adjust_policy` moves the threshold.
    A True from `should_checkpoint` reserves one unit of the budget; the save committed next in
    `checkpoint_dir` settles it, and one that fails gives it back. `policy` puts any other policy behind the
    same calls.
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str] = "./ray_ckpts",
        budget_checkpoints: int = 3,
        cost_threshold: float = 0.35,
        learning_rate: float = 0.1,
        *,
        policy: Policy | None = None,
    ) -> None:
        if type(budget_checkpoints) is not int or budget_checkpoints < 0:
            raise UsageError(f"budget_checkpoints={budget_checkpoints!r}", hint="give a whole number, 0 or more")
        self.checkpoint_dir = os.fspath(checkpoint_dir)
        self.budget = budget_checkpoints
        self.used = 0
        self.history: list[tuple[str, float]] = []
        self.decision_log: list[dict[str, Any]] = []
        self._rule = Threshold(cost_threshold, learning_rate)
        self._policy: Policy = policy or self._rule
        self._reserved = 0
        self._longest = 0.0
        self._unsaved = [0, 0.0]
        self._save_seconds: float | None = None
        _listen(self)

    @property
    def cost_threshold(self) -> float:
        """The ratio from which on a task is saved."""
        return self._rule.threshold

    @cost_threshold.setter
    def cost_threshold(self, value: float) -> None:
        self._rule.threshold = value

    @property
    def learning_rate(self) -> float:
        """The largest change of the threshold by one feedback."""
        return self._rule.learning_rate

    @property
    def max_time_seen(self) -> float:
        """The longest runtime observed, in seconds; 0 before the first."""
        return self._longest

    def observe_task(self, task_name: str, runtime: float) -> None:
        """Record that a task ended after `runtime` seconds. UsageError for what is no duration."""
        seconds = _seconds(runtime, "runtime")
        self._longest = max(self._longest, seconds)
        self.history.append((task_name, seconds))
        self._unsaved[0] += 1
        self._unsaved[1] += seconds

    def should_checkpoint(self, task_name: str, estimated_cost: float) -> bool:
        """Whether to save what this task gave; `estimated_cost` is what running it again would take, in seconds."""
        cost = _seconds(estimated_cost, "estimated_cost")
        steps, seconds = self._unsaved
        seen = Observation(
            step=len(self.history),
            unsaved_steps=int(steps),
            unsaved_seconds=seconds,
            save_seconds=self._save_seconds,
            task=task_name,
            runtime=cost,
            longest=self._longest,
            budget_left=self.budget - self.used,
        )
        decision = self._policy.decide(seen)
        save = decision.save and self.used < self.budget
        self.decision_log.append(
            {
                "task": task_name,
                "est_cost": cost,
                "max_seen": self.max_time_seen,
                "threshold": self.cost_threshold,
                "decision": save,
                "timestamp": time.time(),
                "reason": decision.reason if save or not decision.save else "the budget is used up",
                "numbers": dict(decision.numbers),
                "used": self.used,
                "budget": self.budget,
            }
        )
        if save:
            self.used += 1
            self._reserved += 1
        return save

    def adjust_policy(self, recovery_time_saved: float, checkpoint_overhead: float) -> None:
        """Learn from a recovery: seconds of work that a checkpoint saved, and seconds that it cost.

        benefit = saved - overhead; the threshold moves by -sign(benefit) * learning_rate * |benefit| /
        (|benefit| + 1), within [0.05, 1]; a benefit of 0 changes nothing.
        """
        before = self.cost_threshold
        self._rule.learn(recovery_time_saved, checkpoint_overhead)
        self.decision_log.append(
            {
                "task": None,
                "event": "feedback",
                "saved": recovery_time_saved,
                "overhead": checkpoint_overhead,
                "threshold_before": before,
                "threshold": self.cost_threshold,
                "timestamp": time.time(),
            }
        )

    def save_metadata(self) -> str:
        """Write all decisions to `adaptive_decisions.json` in the directory, whole; returns its path."""
        decisions = [entry for entry in self.decision_log if "decision" in entry]
        text = json.dumps(decisions, indent=2)
        LocalStorage(self.checkpoint_dir).put("adaptive_decisions.json", [text.encode()])
        return str(Path(self.checkpoint_dir) / "adaptive_decisions.json")

    def summarize(self, out: TextIO | None = None) -> None:
        """Print every decision, the budget and the threshold, to standard output or `out`."""
        lines = ["=== Adaptive Controller Summary ==="]
        for entry in self.decision_log:
            if "decision" in entry:
                verdict = "checkpoint" if entry["decision"] else "skip"
                lines.append(
                    f"  {entry['task']:<24} cost={entry['est_cost']:8.3f}s  {verdict:<10}  {entry['reason']}"
                )
            else:
                lines.append(f"  feedback: threshold {entry['threshold_before']:.3f} -> {entry['threshold']:.3f}")
        lines += [f"Budget used: {self.used}/{self.budget}", f"Final threshold: {self.cost_threshold:.3f}"]
        (out or sys.stdout).write("\n".join(lines) + "\n")

    def _on_event(self, event: Event) -> None:
        """Settle reservations by what the store of this directory reports."""
        if event.kind not in ("save.committed", "save.failed"):
            return
        if os.path.realpath(event.data["store"]) != os.path.realpath(self.checkpoint_dir):
            return
        if event.kind == "save.committed":
            self._save_seconds = event.data["seconds"]
            self._unsaved = [0, 0.0]
        elif self._reserved:
            self.used -= 1
        self._reserved = max(0, self._reserved - 1)


def _listen(controller: AdaptiveCheckpointController) -> None:
    """Subscribe without keeping the controller alive."""
    reference = weakref.ref(controller)

    def listener(event: Event) -> None:
        target = reference()
        if target is not None:
            target._on_event(event)

    weakref.finalize(controller, subscribe(listener))


def _seconds(value: float, what: str) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"{what}={value!r} is no duration", hint="give seconds, 0 or more")
    return float(value)


def main() -> None:
    """Show the rule on a pipeline of known runtimes: `python -m perdure.controller`."""
    controller = AdaptiveCheckpointController("./ray_ckpts")
    for task, seconds in (("load", 0.4), ("transform", 1.2), ("train_epoch_0", 3.2), ("train_epoch_1", 3.1)):
        controller.observe_task(task, seconds)
        controller.should_checkpoint(task, seconds)
    controller.adjust_policy(recovery_time_saved=14.0, checkpoint_overhead=1.0)
    controller.observe_task("evaluate", 0.3)
    controller.should_checkpoint("evaluate", 0.3)
    controller.summarize()
    sys.stdout.write(f"Decisions written to {controller.save_metadata()}\n")


if __name__ == "__main__":
    main()
