"""Bytes, and objects that only pickle can carry, as leaves."""

from __future__ import annotations

import pickle
from collections import deque
from types import SimpleNamespace
from typing import Any

from perdure.errors import MismatchError, StateError
from perdure.state.contract import Leaf, Node, Spec, Thunk


def leaf(value: Any, where: str) -> Leaf:
    """Pickle a value now, so that nothing can change it any more; StateError names `where` it was and why."""
    try:
        data = _pickled(value)
    except Exception as error:  # pickling runs code of the user's classes
        raise StateError(
            f"{where} is a {type(value).__qualname__} and cannot be saved: {error}",
            hint="leave it out of the state, or give its class state_dict/load_state_dict",
        ) from error
    return _leaf("object", data)


def _pickled(value: Any) -> bytes:
    """By reference where that can be: a class of the script comes back as the script has it by then."""
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - lambdas, local classes: what pickle refuses, in many ways
        import cloudpickle  # a third of the time of `import perdure`, and most states need none

        return bytes(cloudpickle.dumps(value))


def raw_leaf(value: bytes | bytearray) -> Leaf:
    """A leaf of plain bytes."""
    return _leaf(type(value).__name__, value)


def _leaf(kind: str, data: bytes | bytearray) -> Leaf:
    def fill(out: memoryview) -> None:
        out[:] = data

    return Leaf(Spec(kind, "bytes", (len(data),), len(data)), fill)


_KINDS = {"bytes", "bytearray", "object"}


class Blobs:
    """The adapter of leaves without a framework: kinds `bytes`, `bytearray` and `object`."""

    def flatten(self, value: Any, path: str, tree: Any) -> Node | None:
        return None

    def spec(self, live: Any) -> Spec | None:
        return None

    def empty(self, spec: Spec) -> tuple[Any, memoryview]:
        if spec.kind not in _KINDS:
            raise LookupError(spec.kind)
        data = bytearray(spec.nbytes)
        return data, memoryview(data)

    def finish(self, value: bytearray, spec: Spec) -> Any:
        """Only called for objects after their manifest's signature has been checked."""
        if spec.kind == "bytearray":
            return value
        if spec.kind == "bytes":
            return bytes(value)
        if spec.kind != "object":
            raise LookupError(spec.kind)  # `object.x` would pass by every check for `object`
        try:
            return pickle.loads(value)
        except Exception as error:
            raise MismatchError(
                f"a pickled object cannot be rebuilt: {type(error).__name__}: {error}",
                hint="nothing is damaged; its class may have moved or changed since it was saved",
            ) from error

    def assign(self, live: Any, value: Any) -> None:
        raise NotImplementedError

    def plan(self, tag: str, arguments: list[Any], live: Any, path: str, plan: Any) -> Thunk:
        raise LookupError(tag)

    def load_state(self, live: Any, inner: Node, path: str, plan: Any) -> Thunk | None:
        return None


BLOBS = Blobs()


def adopt(live: Any, value: Any) -> Any:
    """Give a live object the content of a rebuilt one of the same class; the rebuilt one where that cannot be.

    The two exchange their dictionaries, so that a destructor of the discarded one frees the old content.
    """
    if type(live) is not type(value):
        return value
    if isinstance(live, (dict, set, deque)) and not getattr(live, "__dict__", None):
        live.clear()
        live.extend(value) if isinstance(live, deque) else live.update(value)
        return live
    if isinstance(live, SimpleNamespace):
        vars(live).clear()
        vars(live).update(vars(value))
        return live
    if not _is_all_in_dict(type(live)):
        return value
    try:
        live.__dict__, value.__dict__ = value.__dict__, live.__dict__
    except (AttributeError, TypeError):
        return value
    return live


def _is_all_in_dict(cls: type) -> bool:
    """Whether instances keep all they have in `__dict__`: no slots, no items of a list or dict they derive from."""
    if not cls.__dictoffset__ or any(vars(base).get("__slots__") for base in cls.__mro__):
        return False
    return can_be_made(cls)


def can_be_made(cls: type) -> bool:
    """Whether an empty instance can be made without its constructor: no base of another memory layout."""
    try:
        object.__new__(cls)
    except TypeError:
        return False
    return True
