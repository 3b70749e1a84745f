"""Flatten live state into a JSON tree and the leaves it names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from perdure.errors import StateError
from perdure.state import classes, objects, plain
from perdure.state.contract import Leaf, Node, adapter_of

_INLINE_BYTES = 64
# Rebuilding takes four Python frames a level, and may happen further down the stack than saving did.
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class Flat:
    """A flattened state: its tree, its leaves by path, and the paths whose rebuilding runs code."""

    tree: Node
    leaves: dict[str, Leaf]
    trust: tuple[str, ...]


def flatten(state: Any, *, objects: Literal["sign", "refuse"] = "sign", prefix: str = "") -> Flat:
    """Take a state apart without copying its arrays.

    Dicts, lists, tuples and sets become the tree; arrays, tensors, long bytes and objects that only pickle can
    carry become leaves, named by their path from `prefix`. The same array or object in two places is one leaf;
    lists and dicts are values, so the same one in two places comes back as two.

    Raises StateError, naming the path, for what cannot be saved: a cycle, an object that does not pickle, or
    with `objects="refuse"` any object at all.
    """
    flattener = Flattener(refuse=objects == "refuse")
    try:
        tree = flattener.node(state, prefix)
    except RecursionError:
        raise StateError("the state is nested too deeply", hint="flatten it into dicts and arrays") from None
    return Flat(tree, flattener.leaves, tuple(flattener.trust))


class Flattener:
    """One pass over one state."""

    def __init__(self, *, refuse: bool) -> None:
        self.leaves: dict[str, Leaf] = {}
        self.trust: list[str] = []
        self.scratch: dict[str, Any] = {}
        self._refuse = refuse
        self._shared: dict[int, tuple[Any, Node]] = {}
        self._open: set[int] = set()

    def node(self, value: Any, path: str) -> Node:
        """The node of any value at `path`."""
        try:
            return plain.encode(value)
        except LookupError:
            pass
        make = _CONTAINERS.get(type(value))
        if make is not None:
            return self._nested(value, path, make)
        if id(value) in self._shared:
            return self._shared[id(value)][1]
        node = self._nested(value, path, Flattener._single)
        # The value is kept too: a temporary's address may be used again within this pass.
        self._shared[id(value)] = (value, node)
        return node

    def add(self, path: str, leaf: Leaf) -> Node:
        """Take a leaf in, under `path` or the next free name like it."""
        path = path or "value"
        free, count = path, 2
        while free in self.leaves:
            free, count = f"{path}~{count}", count + 1
        self.leaves[free] = leaf
        return ["leaf", free]

    def _nested(self, value: Any, path: str, make: Callable[[Flattener, Any, str], Node]) -> Node:
        if id(value) in self._open:
            raise StateError(f"{path or 'the state'} contains itself", hint="save a state without cycles")
        if len(self._open) >= _DEEPEST:
            raise StateError(f"{path[:80]}... is nested too deeply", hint="flatten it into dicts and arrays")
        self._open.add(id(value))
        try:
            return make(self, value, path)
        finally:
            self._open.discard(id(value))

    def _single(self, value: Any, path: str) -> Node:
        if is_stateful(value):
            return ["stateful", self.node(value.state_dict(), path)]
        adapter = adapter_of(value)
        node = adapter.flatten(value, path, self) if adapter else None
        if node is None:
            node = classes.flatten(value, path, self)
        return self._object(value, path) if node is None else node

    def _object(self, value: Any, path: str) -> Node:
        where = path or "the state"
        if self._refuse:
            raise StateError(
                f"{where} is a {type(value).__qualname__}, which only pickle could carry",
                hint="give it state_dict/load_state_dict, turn it into arrays, or allow objects='sign'",
            )
        leaf = objects.leaf(value, where)
        self.trust.append(path)
        return self.add(path, leaf)

    def _dict(self, value: dict[Any, Any], path: str) -> Node:
        if all(type(key) is str for key in value) and _plain_text(value):
            return {key: self.node(item, join(path, key)) for key, item in value.items()}
        items = self._items(value, path)
        return self._object(value, path) if items is None else ["dict", *items]

    def _odict(self, value: OrderedDict[Any, Any], path: str) -> Node:
        # torch hangs the version of a module's format on its state dict as an attribute.
        attributes = {key: self.node(item, join(path, f".{key}")) for key, item in vars(value).items()}
        items = self._items(value, path)
        return self._object(value, path) if items is None else ["odict", attributes, *items]

    def _items(self, value: dict[Any, Any], path: str) -> list[Node] | None:
        try:
            keys = [plain.encode_key(key) for key in value]
        except LookupError:
            return None
        pairs = zip(keys, value.items(), strict=True)
        return [[key, self.node(item, join(path, raw))] for key, (raw, item) in pairs]

    def _list(self, value: Iterable[Any], path: str) -> Node:
        return [
            "list" if type(value) is list else "tuple",
            *(self.node(item, join(path, index)) for index, item in enumerate(value)),
        ]

    def _set(self, value: Iterable[Any], path: str) -> Node:
        try:
            members = [plain.encode_key(member) for member in value]
        except LookupError:
            return self._object(value, path)
        return ["set" if type(value) is set else "frozenset", *members]

    def _bytes(self, value: bytes | bytearray, path: str) -> Node:
        if type(value) is bytes and len(value) <= _INLINE_BYTES:
            return plain.encode_key(value)
        return self.add(path, objects.raw_leaf(value))


_CONTAINERS: dict[type, Callable[[Flattener, Any, str], Node]] = {
    dict: Flattener._dict,
    OrderedDict: Flattener._odict,
    list: Flattener._list,
    tuple: Flattener._list,
    set: Flattener._set,
    frozenset: Flattener._set,
    bytes: Flattener._bytes,
    bytearray: Flattener._bytes,
}


def is_stateful(value: Any) -> bool:
    """Whether a value hands its state out and takes it back: the two methods stand on its class."""
    kind = type(value)
    return callable(getattr(kind, "state_dict", None)) and callable(getattr(kind, "load_state_dict", None))


def join(path: str, key: Any) -> str:
    """The path of an item: segments joined by `/`, with `/` and `%` escaped in them."""
    try:
        text = key if isinstance(key, str) else str(key)
    except ValueError:  # a number of more digits than Python likes to print; paths need not be unique
        text = type(key).__name__
    text = text.replace("%", "%25").replace("/", "%2F").encode("utf-8", "backslashreplace").decode()
    return f"{path}/{text or '%'}" if path else text or "%"


def _plain_text(keys: Iterable[str]) -> bool:
    return all(type(plain.encode(key)) is str for key in keys)
