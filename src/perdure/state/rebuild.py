"""Plan how a saved tree becomes live state again: check everything first, touch nothing before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from perdure.errors import DamagedError, MismatchError, PerdureError, UntrustedError
from perdure.state import classes, objects, plain
from perdure.state.contract import Adapter, Node, Spec, Thunk, adapter_named, adapter_of
from perdure.state.tree import is_stateful, join

ALLOWANCES = ("missing", "extra", "reshaped")


class _Missing:
    """Stands for "there is no live value here" and for "this was not asked for"."""

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Any = _Missing()


class Plan:
    """How to rebuild one tree, new or into live objects.

    `needed` names the leaves that must be read; once `values` holds them all, `run()` builds. What does not
    fit was collected on the way, so that `check()` can name every path at once, before a byte is read.
    """

    MISSING = MISSING

    def __init__(
        self,
        tree: Node,
        leaves: Mapping[str, Spec],
        into: Any = MISSING,
        *,
        trusted: bool = False,
        allow: frozenset[str] = frozenset(),
        only: tuple[str, ...] = (),
        prefix: str = "",
    ) -> None:
        self.trusted = trusted
        self.allow = allow
        self.needed: dict[str, Spec] = {}
        self.values: dict[str, Any] = {}
        self.problems: list[tuple[str, str]] = []
        self.scratch: dict[Any, Any] = {}
        self._leaves = leaves
        self._only = only
        try:
            self._root = self.node(tree, into, prefix)
        except PerdureError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DamagedError(f"the tree of the state makes no sense: {type(error).__name__}: {error}") from error

    def check(self) -> None:
        """Raise MismatchError, naming every path that does not fit and the word that allows it."""
        refused = [(kind, text) for kind, text in self.problems if kind not in self.allow]
        if refused:
            kinds = sorted({kind for kind, _ in refused})
            lines = "; ".join(text for _, text in refused[:20])
            more = f"; and {len(refused) - 20} more" if len(refused) > 20 else ""
            raise MismatchError(
                f"the checkpoint does not fit: {lines}{more}",
                hint=f"nothing was changed; to go on all the same pass allow={kinds!r}",
            )

    def run(self) -> Any:
        """Build; every needed leaf must be in `values`."""
        value = self._root()
        return None if value is MISSING else value

    def node(self, node: Node, live: Any = MISSING, path: str = "") -> Thunk:
        """How to rebuild one node at `path`, into `live` where that can be."""
        if type(node) is dict:
            return self._dict(list(node.items()), live, path, dict)
        tag = node[0] if type(node) is list else None
        rebuild = _TAGS.get(tag) if tag is not None else None
        if rebuild is not None:
            return rebuild(self, node[1:], live, path)
        if tag is None or tag in plain.TAGS:
            return self._plain(node, live, path)
        return adapter_named(tag.partition(".")[0]).plan(tag, node[1:], live, path, self)

    def need(self, path: str) -> Callable[[], Any]:
        """Ask for a leaf; the returned function gives its value when the plan runs.

        The one door to a leaf's value: UntrustedError for a pickled one, unless the manifest is trusted.
        """
        spec = self._leaves[path]
        if spec.kind == "object" and not self.trusted:
            raise UntrustedError(
                f"{path} is a pickled object, and its checkpoint carries no signature known here",
                hint="share the signing key (PERDURE_SIGNING_KEY_FILE), or load with trust=True if you know "
                "who wrote it: loading it runs code",
            )
        self.needed[path] = spec
        return lambda: self.values[path]

    def wants(self, path: str) -> bool:
        """Whether `only` selects this path: by a pattern, or by the name of something it is part of."""
        return not self._only or any(
            fnmatchcase(path, pattern) or path.startswith(f"{pattern.rstrip('/')}/") for pattern in self._only
        )

    def problem(self, kind: str, text: str) -> None:
        """Note that something does not fit; `kind` is the word that would allow it."""
        self.problems.append((kind, text))

    def _plain(self, node: Node, live: Any, path: str) -> Thunk:
        value = plain.decode(node)
        if not self.wants(path):
            return _kept(live)
        found = self._live_spec(live)
        if found is not None:
            self.problem("reshaped", f"{path} is saved as {type(value).__name__}, live it is {found[1]}")
            return _kept(live)
        return lambda: value

    def _leaf(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        (leaf_path,) = arguments
        spec = self._leaves[leaf_path]
        if not self.wants(path or leaf_path) and not self.wants(leaf_path):
            return _kept(live)
        found = self._live_spec(live)
        if found is not None:
            adapter, live_spec = found
            if (live_spec.kind, live_spec.dtype, live_spec.shape) != (spec.kind, spec.dtype, spec.shape):
                self.problem("reshaped", f"{path} is saved as {spec}, live it is {live_spec}")
                return _kept(live)
            get = self.need(leaf_path)

            def fill() -> Any:
                adapter.assign(live, get())
                return live

            return fill
        get = self.need(leaf_path)
        return (lambda: objects.adopt(live, get())) if spec.kind == "object" else get

    def _stateful(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        (inner,) = arguments
        if live is MISSING or not is_stateful(live):
            return self.node(inner, live, path)
        return self.load_state(inner, live, path)

    def load_state(self, inner: Node, live: Any, path: str) -> Thunk:
        """How to hand a saved state dict to an object that takes it."""
        adapter = adapter_of(live)
        special = adapter.load_state(live, inner, path, self) if adapter else None
        if special is not None:
            return special
        if not self.wants(path):
            return lambda: live
        thunk = self.node(inner, path=path)

        def load() -> Any:
            state = thunk()
            try:
                live.load_state_dict(state)
            except Exception as error:
                raise MismatchError(
                    f"{path or type(live).__qualname__} did not take its state: {type(error).__name__}: {error}",
                    hint="build it as it was built for the run that saved it; its content is now undefined",
                ) from error
            return live

        return load

    def _dict(self, items: list[Any], live: Any, path: str, new: Callable[[], Any]) -> Thunk:
        if is_stateful(live):
            node = ["dict", *([plain.encode_key(key), value] for key, value in items)]
            return self.load_state(node, live, path)
        known = live if isinstance(live, dict) and live else None
        if known is not None:
            saved = {key for key, _ in items}
            for key in known:
                if key not in saved and self.wants(join(path, key)):
                    self.problem("missing", f"{join(path, key)} is not in the checkpoint")
        thunks = {}
        for key, node in items:
            if known is not None and key not in known:
                if self.wants(join(path, key)):
                    self.problem("extra", f"{join(path, key)} has no place in the live state")
                continue
            thunks[key] = self.node(node, MISSING if known is None else known[key], join(path, key))
        target = live if isinstance(live, dict) else None

        def build() -> Any:
            out = new() if target is None else target
            for key, thunk in thunks.items():
                value = thunk()
                if value is not MISSING:
                    out[key] = value
            return out if out or target is not None or self.wants(path) else MISSING

        return build

    def _pairs(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        return self._dict([(plain.decode_key(key), node) for key, node in arguments], live, path, dict)

    def _odict(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        attributes = {key: self.node(node) for key, node in arguments[0].items()}
        items = [(plain.decode_key(key), node) for key, node in arguments[1:]]
        thunk = self._dict(items, live, path, OrderedDict)

        def build() -> Any:
            value = thunk()
            if type(value) is OrderedDict:
                vars(value).update({key: attribute() for key, attribute in attributes.items()})
            return value

        return build

    def _list(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        thunks = self._elements(arguments, live if type(live) is list else [], path)

        def build() -> Any:
            values = [thunk() for thunk in thunks]
            if not self._wanted(values, path):
                return live
            if type(live) is list:
                live[:] = map(_none, values)
                return live
            return list(map(_none, values))

        return build

    def _tuple(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        thunks = self._elements(arguments, live if type(live) is tuple else (), path)

        def build() -> Any:
            values = [thunk() for thunk in thunks]
            return tuple(map(_none, values)) if self._wanted(values, path) else live

        return build

    def _wanted(self, values: list[Any], path: str) -> bool:
        """Whether a list or tuple was asked for, in whole or in part."""
        return self.wants(path) or any(value is not MISSING for value in values)

    def _elements(self, nodes: list[Any], live: Any, path: str) -> list[Thunk]:
        # The length of a list is data, not structure: what is there already is filled, the rest is new.
        return [
            self.node(node, live[index] if index < len(live) else MISSING, join(path, index))
            for index, node in enumerate(nodes)
        ]

    def _set(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        members = [plain.decode_key(node) for node in arguments]
        if not self.wants(path):
            return _kept(live)

        def build() -> Any:
            if type(live) is set:
                live.clear()
                live.update(members)
                return live
            return set(members)

        return build

    def _frozenset(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        members = frozenset(plain.decode_key(node) for node in arguments)
        return (lambda: members) if self.wants(path) else _kept(live)

    def _class(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        return classes.plan(arguments, live, path, self) if self.wants(path) else _kept(live)

    @staticmethod
    def _live_spec(live: Any) -> tuple[Adapter, Spec] | None:
        adapter = adapter_of(live)
        spec = adapter.spec(live) if adapter else None
        return (adapter, spec) if adapter and spec else None


_TAGS: dict[str, Callable[[Plan, list[Any], Any, str], Thunk]] = {
    "leaf": Plan._leaf,
    "stateful": Plan._stateful,
    "dict": Plan._pairs,
    "odict": Plan._odict,
    "list": Plan._list,
    "tuple": Plan._tuple,
    "set": Plan._set,
    "frozenset": Plan._frozenset,
    "class": Plan._class,
}


def _kept(live: Any) -> Thunk:
    return lambda: live


def _none(value: Any) -> Any:
    return None if value is MISSING else value
