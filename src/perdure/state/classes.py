"""Named tuples, dataclasses and enums, by the name of their class."""

from __future__ import annotations

import dataclasses
import enum
import sys
from importlib import import_module
from typing import Any, TypeVar

from perdure.errors import UntrustedError, UsageError
from perdure.state.contract import Node, Thunk
from perdure.state.objects import can_be_made

C = TypeVar("C", bound=type)

_registered: dict[str, type] = {}
_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__")


def register(cls: C) -> C:
    """Declare a named tuple, dataclass or enum as safe to rebuild, so that it needs no signature. A decorator.

    Raises UsageError for any other kind of class.
    """
    if not (dataclasses.is_dataclass(cls) or issubclass(cls, enum.Enum) or _is_namedtuple(cls)):
        raise UsageError(
            f"{cls.__qualname__} is not a named tuple, dataclass or enum",
            hint="give it state_dict and load_state_dict instead",
        )
    _registered[name_of(cls)] = cls
    return cls


def flatten(value: Any, path: str, tree: Any) -> Node | None:
    """The node `["class", name, form, content]`, or None when the class is none of the three or has no name."""
    cls = type(value)
    name = name_of(cls)
    if _registered.get(name) is not cls and _find(name) is not cls:
        return None
    node = _content(value, cls, path, tree)
    if node is not None and name not in _registered:
        tree.trust.append(path)
    return None if node is None else ["class", name, *node]


def _content(value: Any, cls: type, path: str, tree: Any) -> list[Any] | None:
    if isinstance(value, enum.Enum):
        return ["enum", value.name] if type(value).__members__.get(value.name) is value else None
    if _is_namedtuple(cls):
        return ["namedtuple", *(tree.node(item, f"{path}/{key}") for key, item in value._asdict().items())]
    if not dataclasses.is_dataclass(cls) or not _keeps_only_fields(value, cls):
        return None
    names = [field.name for field in dataclasses.fields(cls)]
    return ["dataclass", {name: tree.node(getattr(value, name), f"{path}/{name}") for name in names}]


def plan(arguments: list[Any], live: Any, path: str, plan: Any) -> Thunk:
    """How to rebuild a class node; UntrustedError unless the class is registered or the manifest is trusted."""
    name, form, *content = arguments
    cls = _registered.get(name)
    if cls is None:
        if not plan.trusted:
            raise UntrustedError(
                f"{path or 'the state'} is of class {name}, and its checkpoint carries no signature known here",
                hint="call perdure.register on the class, share the signing key, or load with trust=True",
            )
        cls = _find(name)
        if cls is None:
            raise LookupError(f"class {name} cannot be imported")
    if form == "enum":
        member = getattr(cls, "__members__")[content[0]]  # noqa: B009 - only enums have it
        return lambda: member
    if form == "namedtuple":
        keys: Any = cls._fields  # type: ignore[attr-defined]
        if len(keys) != len(content):
            plan.reshaped(path, f"{name} with {len(content)} fields", live if type(live) is cls else cls)
            return lambda: live
        lives: Any = live if type(live) is cls else [plan.MISSING] * len(keys)
        parts = [plan.node(node, part, f"{path}/{key}") for node, part, key in zip(content, lives, keys, strict=True)]
        return lambda: cls(*(part() for part in parts))
    same = live if type(live) is cls else None
    saved = dict(content[0])
    kept = {}
    if same is not None:
        known = {field.name for field in dataclasses.fields(cls)}
        for key in [key for key in saved if key not in known]:
            plan.problem("extra", f"{path}/{key} has no place in the live {cls.__qualname__}")
            del saved[key]
        kept = {key: getattr(same, key) for key in known - saved.keys() if hasattr(same, key)}
        for key in sorted(kept):
            plan.problem("missing", f"{path}/{key} is not in the checkpoint")
    fields = {key: plan.node(node, getattr(same, key, plan.MISSING), f"{path}/{key}") for key, node in saved.items()}
    frozen = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]

    def build() -> Any:
        target = object.__new__(cls) if same is None or frozen else same
        for key, value in kept.items():
            object.__setattr__(target, key, value)
        for key, thunk in fields.items():
            object.__setattr__(target, key, thunk())
        return target

    return build


def name_of(cls: type) -> str:
    """The name under which instances of a class are saved."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _find(name: str) -> type | None:
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    try:
        found = found or import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def _is_namedtuple(cls: type) -> bool:
    return cls.__bases__ == (tuple,) and hasattr(cls, "_fields") and hasattr(cls, "_make")


def _keeps_only_fields(value: Any, cls: type) -> bool:
    """Whether the fields are all there is: no own pickling, no further attributes, no foreign base."""
    for method in _PICKLING:
        own = getattr(cls, method)
        # Frozen dataclasses with slots have a __getstate__ of the dataclasses module, which is of no harm.
        if own is not getattr(object, method) and own.__module__ != "dataclasses":
            return False
    names = {field.name for field in dataclasses.fields(cls)}
    if not all(hasattr(value, name) for name in names) or not set(getattr(value, "__dict__", ())) <= names:
        return False
    return can_be_made(cls)
