"""Plan how a saved tree becomes live state again: check everything first, touch nothing before."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from perdure.errors import DamagedError, MismatchError, PerdureError, UntrustedError, UsageError
from perdure.state import classes, objects, plain
from perdure.state.contract import Node, Spec, Thunk, adapter_named, adapter_of
from perdure.state.fit import fits, holds, live_spec, words
from perdure.state.outline import outline
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
    ) -> None:
        self.trusted = trusted
        self.allow = allow
        self.needed: dict[str, Spec] = {}
        self.values: dict[str, Any] = {}
        self.problems: list[tuple[str, str]] = []
        self.scratch: dict[Any, Any] = {}
        self._leaves = leaves
        self._only = only
        self._unmatched = dict.fromkeys(only)
        try:
            self._root = self.node(tree, into)
        except PerdureError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DamagedError(f"the tree of the state makes no sense: {type(error).__name__}: {error}") from error
        if self._unmatched:
            raise UsageError(
                f"nothing in the checkpoint is named {', '.join(map(repr, self._unmatched))}",
                hint="`perdure show` lists the paths; an object with a state of its own is restored whole",
            )

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
        if not fits(node, live, self._leaves):
            if self._asked(node, path):
                self.reshaped(path, words(node, self._leaves), live)
            return _kept(live)
        self.wants(path)  # asked for by name, even where nothing comes of it
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
        found = [pattern for pattern in self._only if _selects(pattern, path)]
        for pattern in found:
            self._unmatched.pop(pattern, None)
        return not self._only or bool(found)

    def wants_whole(self, path: str) -> bool:
        """Whether `only` selects what cannot be restored in part: by its name, or by all that is in it."""
        if self.wants(path):
            return True
        inside = f"{path}/*"
        if inside in self._only:
            self._unmatched.pop(inside, None)
        return inside in self._only

    def spec(self, leaf: str) -> Spec:
        """What a saved leaf is, without asking for it."""
        return self._leaves[leaf]

    def problem(self, kind: str, text: str) -> None:
        """Note that something does not fit; `kind` is the word that would allow it."""
        self.problems.append((kind, text))

    def reshaped(self, path: str, saved: object, live: Any) -> None:
        """Note that something was saved as another kind or shape of thing than the live one."""
        found = live_spec(live)
        its = found[1] if found else type(live).__qualname__
        self.problem("reshaped", f"{path or 'the state'} is saved as {saved}, live it is {its}")

    def _asked(self, node: Node, path: str) -> bool:
        """Whether `only` selects a node, or anything in it."""
        paths = [path, *(at for at, _ in outline(node, path))] if self._only else [path]
        if type(node) is list and node[0] == "leaf":
            paths.append(node[1])
        return any([self.wants(at) for at in paths])  # a list: every pattern has to see every path

    def _plain(self, node: Node, live: Any, path: str) -> Thunk:
        value = plain.decode(node)
        return (lambda: value) if self.wants(path) else _kept(live)

    def _leaf(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        (leaf_path,) = arguments
        spec = self._leaves[leaf_path]
        if not self.wants(path or leaf_path) and not self.wants(leaf_path):
            return _kept(live)
        found = live_spec(live)
        if found is not None:
            adapter, its = found
            if (its.kind, its.dtype, its.shape) != (spec.kind, spec.dtype, spec.shape):
                self.reshaped(path, spec, live)
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
        if not self.wants_whole(path):
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
            self._missing(path, [key for key in known if key not in saved])
        thunks = {}
        for key, node in items:
            if known is not None and key not in known:
                self._extra(node, join(path, key))
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
        if type(live) is not list or not live:
            return self._sequence(arguments, live, path, list)
        # The length of a list of plain values is data; what holds arrays or state has a place of its own.
        whole, count = self.wants(path), len(arguments)
        held = [index for index in range(count, len(live)) if holds(live[index])]
        self._missing(path, held)
        known = count if whole else len(live)
        for index in range(known, count):
            self._extra(arguments[index], join(path, index))
        thunks = self._elements(arguments[:known], live, path)

        def build() -> Any:
            values = [thunk() for thunk in thunks]
            if whole:
                live[:] = [*map(_none, values), *(live[count:] if held else [])]
            else:
                _place(values, live)
            return live

        return build

    def _tuple(self, arguments: list[Any], live: Any, path: str) -> Thunk:
        if type(live) is not tuple or not live:
            return self._sequence(arguments, live, path, tuple)
        self._missing(path, range(len(arguments), len(live)))
        for index in range(len(live), len(arguments)):
            self._extra(arguments[index], join(path, index))
        thunks = self._elements(arguments[: len(live)], live, path)

        def build() -> Any:
            out = list(live)
            _place([thunk() for thunk in thunks], out)
            return live if all(map(operator.is_, out, live)) else tuple(out)

        return build

    def _sequence(self, arguments: list[Any], live: Any, path: str, new: Callable[[Any], Any]) -> Thunk:
        """A new list or tuple; an empty live list is filled."""
        thunks = self._elements(arguments, (), path)

        def build() -> Any:
            values = [thunk() for thunk in thunks]
            if not self.wants(path) and all(value is MISSING for value in values):
                return live
            if new is list and type(live) is list:
                live[:] = map(_none, values)
                return live
            return new(map(_none, values))

        return build

    def _elements(self, nodes: list[Any], live: Any, path: str) -> list[Thunk]:
        return [
            self.node(node, live[index] if index < len(live) else MISSING, join(path, index))
            for index, node in enumerate(nodes)
        ]

    def _missing(self, path: str, keys: Iterable[Any]) -> None:
        for at in [join(path, key) for key in keys]:
            if self.wants(at):
                self.problem("missing", f"{at} is not in the checkpoint")

    def _extra(self, node: Node, path: str) -> None:
        if self._asked(node, path):
            self.problem("extra", f"{path} has no place in the live state")

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
        return classes.plan(arguments, live, path, self) if self.wants_whole(path) else _kept(live)


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


def _place(values: list[Any], out: list[Any]) -> None:
    for index, value in enumerate(values):
        if value is not MISSING:
            out[index] = value


def _selects(pattern: str, path: str) -> bool:
    inside = f"{pattern.rstrip('/')}/"
    return fnmatchcase(path, pattern) or path.startswith(inside) or fnmatchcase(path, f"{inside}*")


def _none(value: Any) -> Any:
    return None if value is MISSING else value
