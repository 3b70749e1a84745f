"""Whether a saved node and a live value are of one kind, and the words for it when they are not."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from perdure.state import classes, plain
from perdure.state.contract import Adapter, Node, Spec, adapter_of
from perdure.state.tree import is_stateful

_BLOBS = ("bytes", "bytearray", "object")


def fits(node: Node, live: Any, leaves: Mapping[str, Spec]) -> bool:
    """Whether a node is of the kind that a live value is saved as.

    What holds no state of its own gives way to anything: plain values, lists of them, empty dicts.
    """
    tag = node[0] if type(node) is list else "dict" if type(node) is dict else None
    kind = leaves[node[1]].kind if tag == "leaf" else ""
    if is_stateful(live):
        return tag in ("stateful", "dict", "odict")
    if tag == "stateful":
        return True  # what it holds is judged in its place
    found = live_spec(live)
    if found is not None:
        return (tag == "leaf" and kind not in _BLOBS) or tag == f"{found[1].kind}.view"
    if isinstance(live, dict):
        return not live or tag in ("dict", "odict") or (kind == "object" and not _is_keyed(live))
    if type(live) in (list, tuple):
        return tag == type(live).__name__ or not holds(live)
    own = tag == "class" and node[1] == classes.name_of(type(live))
    return own or kind == "object" or not holds(live)


def holds(live: Any, seen: frozenset[int] = frozenset()) -> bool:
    """Whether a live value is or contains what a restore fills in place: arrays and stateful objects."""
    if is_stateful(live) or live_spec(live) is not None:
        return True
    inside: Any = ()
    if isinstance(live, dict):
        inside = live.values()
    elif isinstance(live, list | tuple):
        inside = live
    elif dataclasses.is_dataclass(live) and not isinstance(live, type):
        inside = [getattr(live, field.name, None) for field in dataclasses.fields(live)]
    if not inside or id(live) in seen:
        return False
    return any(holds(item, seen | {id(live)}) for item in inside)


def live_spec(live: Any) -> tuple[Adapter, Spec] | None:
    """What a live array or tensor is, and who can fill it; None for any other value."""
    adapter = adapter_of(live)
    spec = adapter.spec(live) if adapter else None
    return (adapter, spec) if adapter and spec else None


def words(node: Node, leaves: Mapping[str, Spec]) -> str:
    """What a value was saved as."""
    if type(node) is not list:
        return "None" if node is None else type(node).__name__
    tag = node[0]
    if tag == "leaf":
        spec = leaves[node[1]]
        return spec.kind if spec.kind in _BLOBS else str(spec)
    if tag in plain.TAGS:
        return type(plain.decode(node)).__name__
    return str(node[1]) if tag == "class" else str(tag)


def _is_keyed(live: dict[Any, Any]) -> bool:
    """Whether a dict is saved as one: dicts with other keys than plain ones, and subclasses, are pickled."""
    try:
        for key in live:
            plain.encode_key(key)
    except LookupError:
        return False
    return type(live) in (dict, OrderedDict)
