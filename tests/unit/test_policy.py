"""The policies, as tables."""

from __future__ import annotations

import math

import pytest

from perdure.errors import UsageError
from perdure.policy import EverySeconds, EverySteps, Observation, OverheadCap, Policy, Threshold


def seen(steps: int = 1, seconds: float = 1.0, cost: float | None = None, **more: object) -> Observation:
    return Observation(steps, steps, seconds, cost, **more)  # type: ignore[arg-type]


TABLE = [
    (EverySteps(3), seen(steps=2), False),
    (EverySteps(3), seen(steps=3), True),
    (EverySteps(1), seen(steps=1), True),
    (EverySeconds(60), seen(seconds=59.9), False),
    (EverySeconds(60), seen(seconds=60.0), True),
    (EverySeconds(0), seen(seconds=0.0), True),
    (OverheadCap(0.02), seen(seconds=0.0), True),  # nothing known: measure
    (OverheadCap(0.02), seen(seconds=49.0, cost=1.0), False),
    (OverheadCap(0.02), seen(seconds=50.0, cost=1.0), True),
    (OverheadCap(1.0), seen(seconds=1.0, cost=1.0), True),
    (Threshold(), seen(seconds=1.0), True),
    (Threshold(), seen(runtime=3.4, longest=10.0), False),
    (Threshold(), seen(runtime=3.5, longest=10.0), True),
    (Threshold(), seen(runtime=9.0, longest=10.0, budget_left=0), False),
]


@pytest.mark.parametrize(("policy", "observation", "expected"), TABLE)
def test_decisions(policy: Policy, observation: Observation, expected: bool) -> None:
    decision = policy.decide(observation)
    assert decision.save is expected
    assert decision.reason


@pytest.mark.parametrize(
    "make",
    [
        lambda: EverySteps(0),
        lambda: EverySteps(-1),
        lambda: EverySteps(1.5),  # type: ignore[arg-type]
        lambda: EverySeconds(-1),
        lambda: EverySeconds(math.nan),
        lambda: OverheadCap(0),
        lambda: OverheadCap(2),
        lambda: Threshold(math.nan),
        lambda: Threshold(learning_rate=-1),
    ],
)
def test_nonsense_is_refused(make: object) -> None:
    with pytest.raises(UsageError) as caught:
        make()  # type: ignore[operator]
    assert caught.value.hint


def test_overhead_stays_under_the_cap() -> None:
    """Whatever a step takes, the share of the time spent saving ends up at or below the cap."""
    for step, cost in ((0.01, 0.5), (3.0, 0.5), (40.0, 0.5)):
        policy, clock, saved_at, spent, last = OverheadCap(0.05), 0.0, 0.0, 0.0, None
        for number in range(1, 5001):
            clock += step
            if policy.decide(Observation(number, 1, clock - saved_at, last)).save:
                clock += cost
                spent += cost
                saved_at, last = clock, cost
        assert spent - cost <= 0.05 * clock
