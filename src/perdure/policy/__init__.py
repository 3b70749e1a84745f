"""When to save: observation in, decision with its reason out."""

from perdure.policy.contract import Decision, Observation, Policy
from perdure.policy.interval import EverySeconds, EverySteps, OverheadCap
from perdure.policy.threshold import Threshold

__all__ = ["Decision", "EverySeconds", "EverySteps", "Observation", "OverheadCap", "Policy", "Threshold"]
