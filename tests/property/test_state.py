"""Whatever goes into a checkpoint comes out exactly: values, types, bits, sharing."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import pathlib
import random
import struct
import uuid
import zoneinfo
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import perdure
from perdure.storage import MemoryStorage
from perdure.store import CheckpointStore

SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def round_trip(value: Any, **options: Any) -> Any:
    store = CheckpointStore(MemoryStorage(), **options)
    store.save("k", value)
    return store.load("k")


def same(a: Any, b: Any) -> bool:
    """Equal and of one type, floats by their bits, dicts in order."""
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return struct.pack(">d", a) == struct.pack(">d", b)
    if type(a) is complex:
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) and same(a[x], b[y]) for x, y in zip(a, b, strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dt.datetime):
        return a == b and a.fold == b.fold and str(a.tzinfo) == str(b.tzinfo)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, decimal.Decimal):
        return a.as_tuple() == b.as_tuple()
    return bool(a == b)


nan_payloads = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack(">d", bits.to_bytes(8, "big"))[0])
hashables = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters()),
    st.binary(max_size=80),
    st.dates(),
    st.uuids(),
    st.tuples(st.integers(), st.text(max_size=3)),
)
plain = st.one_of(
    hashables,
    nan_payloads,
    st.text(st.characters(categories=("Cs", "L", "Cc"))),
    st.complex_numbers(),
    st.datetimes(timezones=st.sampled_from([None, dt.UTC, zoneinfo.ZoneInfo("Europe/Berlin")])),
    st.times(),
    st.timedeltas(),
    st.decimals(),
    st.fractions(),
    st.builds(range, st.integers(), st.integers(), st.integers(1)),
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))).map(pathlib.PurePosixPath),
    st.sets(hashables, max_size=4),
    st.frozensets(hashables, max_size=4),
    st.binary(max_size=300).map(bytearray),
    st.just(...),
)
states = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(hashables, inner, max_size=4),
        st.dictionaries(st.text(max_size=4), inner, max_size=4).map(collections.OrderedDict),
    ),
    max_leaves=20,
)


@SETTINGS
@given(states)
def test_plain_data(state: Any) -> None:
    assert same(round_trip(state, objects="refuse"), state)


arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.scalar_dtypes(),
        hnp.array_dtypes(subtype_strategy=hnp.scalar_dtypes(), max_size=4, allow_subarrays=True),
        st.sampled_from(["float16", "longdouble", "clongdouble", ">c8", "S5", ">U3", "M8[us]", "m8[D]"]).map(
            np.dtype
        ),
    ),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@SETTINGS
@given(arrays)
def test_numpy_of_every_dtype(array: np.ndarray[Any, Any]) -> None:
    again = round_trip({"a": array})["a"]
    assert same(again, array)
    assert again.flags.writeable


@SETTINGS
@given(hnp.arrays("i4", hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)), st.data())
def test_numpy_views(array: np.ndarray[Any, Any], data: st.DataObject) -> None:
    step = data.draw(st.sampled_from([-2, -1, 1, 2]))
    for view in (
        array[::step],
        array.T,
        array[..., ::step],
        np.asfortranarray(array),
        np.broadcast_to(array, (2, *array.shape)),
    ):
        again = round_trip(view)
        assert again.tolist() == view.tolist()
        assert again.flags.f_contiguous or not view.flags.f_contiguous


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_numpy_generators(name: str) -> None:
    one = np.random.Generator(getattr(np.random, name)(7))
    one.random(5)
    one.integers(0, 9, 3, dtype="u1")  # leaves half a word in the buffer
    one.spawn(2)
    again = round_trip(one, objects="refuse")
    store = CheckpointStore(MemoryStorage())
    store.save("k", {"g": one})
    live = np.random.Generator(getattr(np.random, name)(1))
    store.load("k", into={"g": live})
    expected = [one.random(3).tolist(), one.integers(0, 9, 5, dtype="u1").tolist()]
    assert expected == [again.random(3).tolist(), again.integers(0, 9, 5, dtype="u1").tolist()]
    assert expected == [live.random(3).tolist(), live.integers(0, 9, 5, dtype="u1").tolist()]
    assert one.spawn(1)[0].random() == again.spawn(1)[0].random()


def test_old_generators() -> None:
    legacy, python = np.random.RandomState(3), random.Random(4)
    legacy.normal()
    python.gauss(0, 1)
    again = round_trip({"n": legacy, "p": python}, objects="refuse")
    assert again["n"].normal(size=3).tolist() == legacy.normal(size=3).tolist()
    assert [again["p"].gauss(0, 1) for _ in range(3)] == [python.gauss(0, 1) for _ in range(3)]


def test_numpy_scalars_keep_their_type() -> None:
    values = [
        np.float32(1.1),
        np.int8(-3),
        np.bool_(True),
        np.datetime64("2020-01-01"),
        np.str_("x"),
        np.complex64(1j),
    ]
    again = round_trip(values, objects="refuse")
    assert all(map(same, again, values))


def test_object_arrays_and_subclasses_go_by_pickle() -> None:
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    state = {"o": np.array([1, "a", None], object), "m": masked, "r": np.rec.array([(1, 2.0)], "i4,f8")}
    again = round_trip(state)
    assert again["o"].tolist() == [1, "a", None]
    assert (again["m"].mask == masked.mask).all()
    assert type(again["r"]) is np.recarray


class Color(enum.Enum):
    RED = "r"
    GREEN = "g"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Inner:
    w: Any
    n: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Outer:
    inner: Inner
    kinds: tuple[Color, ...]


Point = collections.namedtuple("Point", "x y")
CLASSES = {
    "o": Outer(Inner(np.arange(3), 5), (Color.RED, Color.GREEN)),
    "p": Point(1, [2]),
    "f": Access.READ | Access.WRITE,
}


def test_classes_signed() -> None:
    again = round_trip(CLASSES)
    assert again["p"] == CLASSES["p"]
    assert type(again["p"]) is Point
    assert again["f"] == CLASSES["f"]
    assert again["o"].kinds == (Color.RED, Color.GREEN)
    assert again["o"].inner.w.tolist() == [0, 1, 2]


def test_a_dataclass_is_restored_in_place() -> None:
    store = CheckpointStore(MemoryStorage())
    store.save("k", {"i": Inner(np.arange(3), 5)})
    live = {"i": Inner(np.zeros(3, int), 0)}
    inner, array = live["i"], live["i"].w
    store.load("k", into=live)
    assert (live["i"] is inner, inner.w is array, inner.n, array.tolist()) == (True, True, 5, [0, 1, 2])


@perdure.register
class Registered(enum.Enum):
    A = 1


def test_registered_classes_need_no_signature() -> None:
    storage = MemoryStorage()
    CheckpointStore(storage).save("k", Registered.A)
    (entry,) = storage.entries("checkpoints/k")
    assert b'"mac"' not in storage.read(entry.key)
    assert CheckpointStore(storage).load("k") is Registered.A


def test_one_array_in_two_places_stays_one() -> None:
    array = np.arange(4)
    again = round_trip({"a": array, "b": [array]})
    assert again["a"] is again["b"][0]


@pytest.mark.parametrize("cycle", [list, dict])
def test_a_cycle_is_refused_by_name(cycle: type) -> None:
    inner: Any = cycle()
    inner.append(inner) if cycle is list else inner.update(me=inner)
    with pytest.raises(perdure.errors.StateError, match="deep"):
        round_trip({"deep": inner})


def test_too_deep_is_refused() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(perdure.errors.StateError, match="deeply"):
        round_trip(deep)
    while deep:  # or its destructor would recurse as well
        (deep,) = deep


def test_what_cannot_be_pickled_is_named() -> None:
    import threading

    with pytest.raises(perdure.errors.StateError, match="a/b"):
        round_trip({"a": {"b": threading.Lock()}})


def test_plain_subclasses_keep_their_class() -> None:
    state = {
        "c": collections.Counter("abca"),
        "d": collections.defaultdict(list, {1: [2]}),
        "q": collections.deque([1], 5),
    }
    again = round_trip(state)
    assert all(type(again[key]) is type(state[key]) and again[key] == state[key] for key in state)
    assert again["d"]["new"] == []
    assert again["q"].maxlen == 5


@pytest.mark.parametrize(
    "value", [uuid.uuid4(), fractions.Fraction(1, 3), decimal.Decimal("sNaN12"), pathlib.Path("/x")]
)
def test_more_plain_values(value: Any) -> None:
    again = round_trip(value, objects="refuse")
    assert type(again) is type(value)
    assert repr(again) == repr(value)
