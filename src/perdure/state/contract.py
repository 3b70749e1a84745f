"""The contract between the tree and those who know one framework's values."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from perdure import registry

if TYPE_CHECKING:
    from perdure.state.rebuild import Plan
    from perdure.state.tree import Flattener

# A node of the tree is JSON: null, booleans, numbers and strings stand for themselves, an object for a
# dict with string keys, and an array `[tag, ...]` for everything else.
Node = Any
Thunk = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a leaf is: its adapter's `kind`, dtype, shape in elements, size in bytes, and the adapter's facts."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A live leaf: its spec, and how to copy its bytes into a writable buffer of `spec.nbytes` bytes."""

    spec: Spec
    fill: Callable[[memoryview], None]


class Adapter(Protocol):
    """One framework's values, both directions. Found by the top-level module of a value's class."""

    def flatten(self, value: Any, path: str, tree: Flattener) -> Node | None:
        """The node for `value`, its leaves added to `tree`; None when it is no value of this framework."""
        ...

    def spec(self, live: Any) -> Spec | None:
        """Kind, dtype and shape of a live value that `assign` can fill; None for everything else."""
        ...

    def empty(self, spec: Spec) -> tuple[Any, memoryview]:
        """A new value for `spec`, and its memory as writable bytes."""
        ...

    def finish(self, value: Any, spec: Spec) -> Any:
        """What to hand out once the memory of `empty` has been filled."""
        ...

    def assign(self, live: Any, value: Any) -> None:
        """Copy a finished value into a live one of the same shape and dtype."""
        ...

    def plan(self, tag: str, arguments: list[Any], live: Any, path: str, plan: Plan) -> Thunk:
        """How to rebuild a node whose tag is the adapter's own."""
        ...

    def load_state(self, live: Any, inner: Node, path: str, plan: Plan) -> Thunk | None:
        """How to hand `live` a saved state dict, checked in full first; None to leave it to `load_state_dict`."""
        ...


def adapter_of(value: Any) -> Adapter | None:
    """The adapter for a value, by the modules of its class and its bases; None when nobody knows it."""
    kind = type(value)
    if kind not in _by_type:
        _by_type[kind] = next(
            (
                adapter_named(root)
                for base in kind.__mro__
                if (root := base.__module__.partition(".")[0]) in _roots() and root in sys.modules
            ),
            None,
        )
    return _by_type[kind]


def adapter_named(name: str) -> Adapter:
    """The adapter called `name`; UsageError or MissingExtraError when it cannot be had."""
    return cast(Adapter, registry.load("state", name))


def _roots() -> set[str]:
    return set(registry.known("state"))


_by_type: dict[type, Adapter | None] = {}
