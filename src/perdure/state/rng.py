"""Random generators: Python's own, and the global ones of every library in use."""

from __future__ import annotations

import array
import random
import sys
from typing import Any

from perdure import registry
from perdure.state import objects
from perdure.state.contract import Node, Spec, Thunk, adapter_named


class RandomAdapter:
    """`random.Random` objects."""

    def flatten(self, value: Any, path: str, tree: Any) -> Node | None:
        if type(value) is not random.Random:
            return None
        version, words, gauss = value.getstate()
        data = array.array("I", words).tobytes()
        return ["random.state", version, tree.add(path, objects.raw_leaf(data)), tree.node(gauss, path)]

    def spec(self, live: Any) -> Spec | None:
        return None

    def empty(self, spec: Spec) -> tuple[Any, memoryview]:
        raise LookupError(spec.kind)

    def finish(self, value: Any, spec: Spec) -> Any:
        raise LookupError(spec.kind)

    def assign(self, live: Any, value: Any) -> None:
        raise LookupError(type(live))

    def plan(self, tag: str, arguments: list[Any], live: Any, path: str, plan: Any) -> Thunk:
        if tag != "random.state":
            raise LookupError(tag)
        if not plan.wants(path):
            return lambda: live
        version, leaf, gauss = arguments
        words, spare = plan.node(leaf, path=path), plan.node(gauss, path=path)

        def build() -> Any:
            target = live if type(live) is random.Random else random.Random()
            target.setstate((version, tuple(array.array("I", words())), spare()))
            return target

        return build

    def load_state(self, live: Any, inner: Node, path: str, plan: Any) -> Thunk | None:
        return None

    def generators(self) -> Any:
        """The state of Python's global generator, with its words packed: it is written with every checkpoint."""
        version, words, gauss = random.getstate()
        return {"version": version, "words": array.array("I", words).tobytes(), "gauss": gauss}

    def set_generators(self, state: Any) -> None:
        """Put Python's global generator where it was."""
        random.setstate((state["version"], tuple(array.array("I", state["words"])), state["gauss"]))


ADAPTER = RandomAdapter()


class Generators:
    """The global generators of Python and of every known library that is imported, as one stateful object."""

    def state_dict(self) -> dict[str, Any]:
        return {
            name: adapter.generators()
            for name in registry.known("state")
            if name in sys.modules and hasattr(adapter := adapter_named(name), "generators")
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, generators in state.items():
            adapter: Any = adapter_named(name)
            adapter.set_generators(generators)
