"""What fits into live objects and what does not: all of it is said before anything is touched."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import perdure
from perdure import CheckpointStore
from perdure.errors import MismatchError, UsageError
from perdure.storage import MemoryStorage


class Counter:
    """A stateful object of one number."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Part:
    a: Any
    b: Any = field(default=0)


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(MemoryStorage())


def ones() -> np.ndarray[Any, Any]:
    return np.ones(2)


def zeros() -> np.ndarray[Any, Any]:
    return np.zeros(2)


def linear(value: float) -> torch.nn.Linear:
    made = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(made.weight, value)
    return made


def refused(store: CheckpointStore, saved: Any, live: Any, text: str, kind: str = "reshaped") -> Any:
    """What stays in the place `x` when the difference is allowed, after it was refused and nothing touched."""
    store.save("k", {"first": ones(), "x": saved})
    into = {"first": zeros(), "x": live}
    with pytest.raises(MismatchError) as caught:
        store.load("k", into=into)
    assert text in str(caught.value)
    assert f"allow=['{kind}']" in str(caught.value)
    assert into["x"] is live
    assert into["first"].tolist() == [0, 0]
    store.load("k", into=into, allow=kind)
    assert into["first"].tolist() == [1, 1]
    return into["x"]


SAVED: list[tuple[Any, str]] = [
    (None, "None"),
    (5, "int"),
    ("text", "str"),
    (2**60, "int"),
    ([1, 2], "list"),
    ((1, 2), "tuple"),
    ({1, 2}, "set"),
    (b"x" * 100, "bytes"),
    (np.float64(1), "numpy.scalar"),
]
LIVE = [
    lambda: linear(0),
    lambda: torch.optim.SGD(linear(0).parameters(), 0.1),
    lambda: Counter(3),
    zeros,
    lambda: torch.zeros(2),
    lambda: {"a": 1},
    lambda: Pair(zeros(), 1),
    lambda: Part(torch.zeros(2)),
]


@pytest.mark.parametrize("make", LIVE)
@pytest.mark.parametrize(("saved", "words"), SAVED, ids=lambda value: str(value)[:20])
def test_a_live_object_gives_way_to_no_other_kind(store: CheckpointStore, make: Any, saved: Any, words: str) -> None:
    live = make()
    assert refused(store, saved, live, f"x is saved as {words}, live it is ") is live


@pytest.mark.parametrize("make", [lambda: [zeros()], lambda: (Counter(),), lambda: [{"a": [zeros()]}]])
@pytest.mark.parametrize("saved", [None, 5, {"a": 1}, {1}, np.ones(1)])
def test_a_list_of_live_objects_gives_way_to_no_other_kind(store: CheckpointStore, make: Any, saved: Any) -> None:
    live = make()
    assert refused(store, saved, live, "x is saved as ") is live


def test_containers_arrays_and_objects_are_told_apart(store: CheckpointStore) -> None:
    array, module = zeros(), linear(0)
    for live in (array, torch.zeros(2)):
        assert refused(store, {"a": 1}, live, "x is saved as dict, live it is ") is live
        assert refused(store, Counter(), live, "x is saved as dict, live it is ") is live
    assert refused(store, ones(), module, "x is saved as <f8[2], live it is Linear") is module
    assert refused(store, torch.ones(2), {"a": 1}, "x is saved as float32[2], live it is dict") == {"a": 1}
    base = torch.ones(4)
    assert refused(store, [base, base[1:]], [np.zeros(4), zeros()], "x/0 is saved as torch.view")[1].tolist() == [
        0,
        0,
    ]
    pair = (zeros(), 1)
    assert refused(store, [ones(), 1], pair, "x is saved as list, live it is tuple") is pair


@pytest.mark.parametrize("live", [None, 5, "text", [1, 2], [], {}, (), {1}, ((1, 2), [3])])
@pytest.mark.parametrize("saved", [None, 6, [1], {"a": [1]}, {2}, [np.float64(1)]])
def test_plain_values_give_way_to_anything(store: CheckpointStore, live: Any, saved: Any) -> None:
    store.save("k", {"x": saved})
    into = {"x": copy.deepcopy(live)}
    assert store.load("k", into=into)["x"] == saved
    store.save("k", {"x": ones()})
    assert store.load("k", into={"x": copy.deepcopy(live)})["x"].tolist() == [1, 1]


def test_lists_of_plain_values_are_of_any_length(store: CheckpointStore) -> None:
    store.save("k", {"x": [1, 2]})
    lengths: list[list[Any]] = [[], [7], [7, 8, 9], [None, None, {"b": [2]}]]
    for live in lengths:
        assert store.load("k", into={"x": live})["x"] is live
        assert live == [1, 2]


def test_a_list_loses_no_array(store: CheckpointStore) -> None:
    live = [zeros(), 5, np.full(3, 7.0), 6]
    known = list(live)
    after = refused(store, [ones()], live, "x/2 is not in the checkpoint", "missing")
    assert after is live
    assert [one is other for one, other in zip(after, known, strict=True)] == [True] * 4
    assert after[0].tolist() == [1, 1]
    store.save("k", [ones(), ones()])
    assert len(store.load("k", into=[zeros()])) == 2


def test_a_tuple_loses_and_gains_nothing(store: CheckpointStore) -> None:
    a, b = zeros(), linear(0)
    after = refused(store, (ones(),), (a, b), "x/1 is not in the checkpoint", "missing")
    assert after[0] is a
    assert after[1] is b
    assert a.tolist() == [1, 1]
    assert refused(store, (1, 2), (7,), "x/1 has no place in the live state", "extra") == (1,)


def test_what_was_a_dict_of_a_module_fits_the_module_and_back(store: CheckpointStore) -> None:
    store.save("k", {"x": linear(3).state_dict()})
    live = linear(0)
    store.load("k", into={"x": live})
    assert live.weight.tolist() == [[3, 3], [3, 3]]
    store.save("k", {"x": linear(4)})
    tensors = live.state_dict()
    store.load("k", into={"x": tensors})
    assert live.weight.tolist() == [[4, 4], [4, 4]]


def test_a_dict_that_only_pickle_knows_fits_itself(store: CheckpointStore) -> None:
    store.save("k", {"x": {Part: 1}})
    assert store.load("k", into={"x": {Part: 0}}) == {"x": {Part: 1}}
    assert refused(store, {Part: 1}, {"a": 0}, "x is saved as object, live it is dict") == {"a": 0}


def test_a_module_whose_state_was_no_dict(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Counter, "state_dict", lambda self: [1])
        store.save("k", {"x": Counter()})
    for live in (linear(0), torch.optim.SGD(linear(0).parameters(), 0.1)):
        with pytest.raises(MismatchError, match="x is saved as "):
            store.load("k", into={"x": live})


def test_fields_of_a_dataclass_that_only_one_side_has(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.state.classes._registered", {})
    perdure.register(Part)
    store.save("k", {"x": Part(ones(), 1)})

    @dataclass
    class Newer:
        a: Any
        c: Any

    Newer.__qualname__, Newer.__module__ = "Part", __name__
    perdure.register(Newer)
    live = Newer(zeros(), 5)
    with pytest.raises(MismatchError) as caught:
        store.load("k", into={"x": live})
    for part in ("x/b has no place", "x/c is not in the checkpoint", "allow=['extra', 'missing']"):
        assert part in str(caught.value)
    assert live.a.tolist() == [0, 0]
    store.load("k", into={"x": live}, allow=["extra", "missing"])
    assert (live.a.tolist(), live.c) == ([1, 1], 5)
    assert not hasattr(live, "b")


def test_a_named_tuple_of_another_length(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.state.classes._registered", {})
    perdure.register(Pair)
    store.save("k", {"x": Pair(1, 2)})

    class Triple(NamedTuple):
        left: Any
        right: Any
        third: Any

    Triple.__qualname__, Triple.__module__ = "Pair", __name__
    perdure.register(Triple)
    live = Triple(1, 2, zeros())
    with pytest.raises(MismatchError, match=r"x is saved as .*Pair with 2 fields"):
        store.load("k", into={"x": live})
    assert store.load("k", into={"x": live}, allow="reshaped")["x"] is live


# Optimizers.


def trained(model: torch.nn.Module, kind: Any = torch.optim.Adam, split: bool = False) -> Any:
    groups: Any = [{"params": [one]} for one in model.parameters()] if split else model.parameters()
    made = kind(groups, lr=0.1)
    sum((one**2).sum() for one in model.parameters()).backward()
    made.step(lambda: torch.zeros(()))
    return made


@pytest.mark.parametrize(
    ("saved", "live", "text"),
    [
        (
            lambda: trained(linear(1), split=True),
            lambda: trained(linear(1)),
            "opt/param_groups is saved as 2 groups, live it is 1",
        ),
        (
            lambda: trained(torch.nn.Linear(2, 2, bias=False)),
            lambda: trained(linear(1)),
            "opt/param_groups/0/params is saved as 1 parameters, live it is 2",
        ),
        (
            lambda: trained(torch.nn.Linear(2, 3)),
            lambda: trained(linear(1)),
            "opt/state/0/exp_avg is saved as [3, 2], live its parameter is [2, 2]",
        ),
        (
            lambda: trained(torch.nn.Linear(2, 3)),
            lambda: torch.optim.Adam(linear(1).parameters()),
            "opt/state/1/exp_avg_sq is saved as [3], live",
        ),
        (lambda: linear(1), lambda: trained(linear(1)), "opt is saved as no state of an optimizer"),
    ],
)
def test_an_optimizer_that_does_not_fit(store: CheckpointStore, saved: Any, live: Any, text: str) -> None:
    store.save("k", {"model": linear(7), "opt": saved()})
    into = {"model": linear(0), "opt": live()}
    before = copy.deepcopy(into["opt"].state_dict())
    with pytest.raises(MismatchError) as caught:
        store.load("k", into=into)
    assert text in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    assert not into["model"].weight.any()
    store.load("k", into=into, allow="reshaped")
    assert into["model"].weight.all()
    assert str(into["opt"].state_dict()) == str(before)


@pytest.mark.parametrize(
    "name", ["Adam", "SGD", "LBFGS", "Adafactor", "Rprop", "ASGD", "NAdam", "Adadelta", "Adamax"]
)
def test_optimizers_fit_themselves(store: CheckpointStore, name: str) -> None:
    kind = getattr(torch.optim, name)
    made = trained(torch.nn.Linear(3, 2), kind)
    store.save("k", {"opt": made})
    live = kind(torch.nn.Linear(3, 2).parameters(), lr=0.5)
    store.load("k", into={"opt": live})
    assert str(live.state_dict()) == str(made.state_dict())


def test_an_optimizer_with_a_format_of_its_own_is_left_to_itself(store: CheckpointStore) -> None:
    class Wrapper(torch.optim.SGD):
        def state_dict(self) -> Any:
            return {"inner": super().state_dict()}

        def load_state_dict(self, state: Any) -> None:
            super().load_state_dict(state["inner"])

    store.save("k", {"opt": Wrapper(linear(0).parameters(), lr=0.5)})
    live = Wrapper(linear(0).parameters(), lr=0.1)
    store.load("k", into={"opt": live})
    assert live.param_groups[0]["lr"] == 0.5


# Only some paths.


@pytest.mark.parametrize("live", [True, False])
def test_a_pattern_that_matches_nothing_is_said(store: CheckpointStore, live: bool) -> None:
    store.save("k", {"model": {"a": ones()}, "l": [1, 2], "c": Counter(1)})
    into: Any = {"model": {"a": zeros()}, "l": [3, 4], "c": Counter()} if live else None
    for only, named in (("modle/*", "'modle/*'"), (["model/*", "l/7", "x"], "'l/7', 'x'")):
        with pytest.raises(UsageError, match="perdure show") as caught:
            store.load("k", into=into, only=only)
        assert f"named {named} (" in str(caught.value)
    if live:
        assert into["model"]["a"].tolist() == [0, 0]
    assert store.load("k", only=["model", "model/a", "model/*", "*"]).keys() == {"model", "l", "c"}


def test_patterns_of_whole_objects(store: CheckpointStore) -> None:
    store.save("k", {"c": Counter(1), "opt": trained(linear(1)), "m1": {"a": ones()}, "m2": {"a": ones()}})
    live: Any = {"c": Counter(), "opt": torch.optim.Adam(linear(1).parameters()), "m1": {"a": zeros()}, "m2": {}}
    store.load("k", into=live, only=["c/*", "opt/*", "m?"])
    assert live["c"].count == 1
    assert live["opt"].param_groups[0]["lr"] == 0.1
    assert (live["m1"]["a"].tolist(), live["m2"]["a"].tolist()) == ([1, 1], [1, 1])
    with pytest.raises(UsageError, match="is restored whole"):
        store.load("k", into=live, only="c/count")


def test_some_items_of_a_live_list(store: CheckpointStore) -> None:
    store.save("k", {"l": [10, 11, 12], "t": (20, 21), "d": [{"a": 1}, {"a": 2}], "a": [ones(), ones()]})
    live: Any = {"l": [0, 1, 2, 3, 4], "t": (0, 1, 2), "d": [{"a": 0, "b": 5}], "a": [zeros(), zeros(), zeros()]}
    known = live["l"], live["t"]
    store.load("k", into=live, only="l/0")
    assert live["l"] is known[0]
    assert live["l"] == [10, 1, 2, 3, 4]
    assert live["t"] is known[1]
    store.load("k", into=live, only=["t/1", "d/0/a", "a/1"])
    assert live["t"] == (0, 21, 2)
    assert live["d"] == [{"a": 1, "b": 5}]
    assert [array.tolist() for array in live["a"]] == [[0, 0], [1, 1], [0, 0]]
    for only in ("d/1", "d/1/a"):
        with pytest.raises(MismatchError, match="d/1 has no place in the live state"):
            store.load("k", into=live, only=only)
    store.load("k", into=live, only="l")
    assert live["l"] == [10, 11, 12]
    with pytest.raises(MismatchError, match="a/2 is not in the checkpoint"):
        store.load("k", into=live, only="a/*")


def test_what_was_not_asked_for_need_not_fit(store: CheckpointStore) -> None:
    store.save("k", {"w": ones(), "m": {"a": 1}, "n": None})
    live = {"w": zeros(), "m": zeros(), "n": linear(0)}
    store.load("k", into=live, only="w")
    assert (live["w"].tolist(), live["m"].tolist()) == ([1, 1], [0, 0])  # type: ignore[union-attr]
    with pytest.raises(MismatchError, match="m is saved as dict"):
        store.load("k", into=live, only="m/a")
