"""What can be saved: live objects to a plain tree with leaves, and back."""

from perdure.state.classes import register
from perdure.state.contract import Adapter, Leaf, Spec
from perdure.state.rebuild import Plan
from perdure.state.tree import Flat, flatten

__all__ = ["Adapter", "Flat", "Leaf", "Plan", "Spec", "flatten", "register"]
