"""Whatever goes into a store comes out of it equal, of the same type, and bit for bit."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import pathlib
import random
import struct
import warnings
import zoneinfo
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.utils._pytree import tree_leaves

import perdure
from perdure import CheckpointStore
from perdure.errors import MismatchError, StateError
from perdure.storage import LocalStorage, MemoryStorage

quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["memory", "packs", "zstd"])
def store(request: pytest.FixtureRequest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    if request.param == "memory":
        return CheckpointStore(MemoryStorage())
    if request.param == "packs":
        monkeypatch.setattr("perdure.catalog.writer._INLINE_LIMIT", 0)
    return CheckpointStore(LocalStorage(tmp_path / "store"), compression="zstd" if request.param == "zstd" else None)


def trip(store: CheckpointStore, value: Any) -> Any:
    store.save("x", value)
    return store.load("x")


def bits(value: Any) -> Any:
    """A value in which everything that `==` forgives counts: types, NaN payloads, zones, folds, order of dicts."""
    kind = type(value)
    if kind is float:
        return kind, struct.pack(">d", value)
    if kind is complex:
        return kind, struct.pack(">dd", value.real, value.imag)
    if kind in (dict, collections.OrderedDict):
        return kind, [(bits(key), bits(item)) for key, item in value.items()]
    if kind in (list, tuple):
        return kind, [bits(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(map(repr, map(bits, value)))
    if kind in (dt.datetime, dt.time):
        return kind, value.replace(tzinfo=None), value.fold, bits(value.tzinfo)
    if kind in (dt.timezone, zoneinfo.ZoneInfo):
        return kind, repr(value)
    if kind is decimal.Decimal:
        return kind, value.as_tuple()
    return kind, value


floats = st.one_of(
    st.floats(),
    st.integers(0, 2**64 - 1).map(lambda number: struct.unpack(">d", number.to_bytes(8, "big"))[0]),
)
texts = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["", "\ud800", "a\0b", "leaf", "/", "%", "a/b"]
)
zones = st.one_of(
    st.none(),
    st.sampled_from([dt.UTC, zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("UTC")]),
    st.builds(
        lambda seconds, name: dt.timezone(dt.timedelta(seconds=seconds), *name),
        st.integers(-86399, 86399),
        st.tuples() | st.tuples(st.sampled_from(["X", "", "UTC+01:00", "\ud800"])),
    ),
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**53, -(2**53), 2**53 - 1, 2**63, -(2**63), 2**64]),
    st.sampled_from([1, -1]).map(lambda sign: sign << 12_000),
    floats,
    texts,
    st.binary(max_size=200),
    st.complex_numbers(),
    st.builds(dt.datetime.replace, st.datetimes(), tzinfo=zones, fold=st.integers(0, 1)),
    st.builds(dt.time.replace, st.times(), tzinfo=zones, fold=st.integers(0, 1)),
    st.dates(),
    st.timedeltas(),
    zones,
    st.decimals(),
    st.sampled_from(["-0", "sNaN123", "-Infinity", "1E+999999", "0E-30", "NaN"]).map(decimal.Decimal),
    st.fractions(),
    st.uuids(),
    texts.filter(lambda text: "\0" not in text).map(pathlib.Path),
    texts.map(pathlib.PurePosixPath),
    texts.map(pathlib.PureWindowsPath),
    st.builds(range, st.integers(), st.integers(), st.integers(1, 9) | st.integers(-9, -1)),
    st.just(...),
)
keys = st.recursive(
    plain.filter(lambda value: not (isinstance(value, decimal.Decimal) and value.is_snan())),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
states = st.recursive(
    plain | st.binary(max_size=200).map(bytearray) | st.sets(keys, max_size=3) | st.frozensets(keys, max_size=3),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=12,
)


@quick
@given(state=states)
def test_plain_values_and_containers(store: CheckpointStore, state: Any) -> None:
    assert bits(trip(store, state)) == bits(state)


@quick
@given(state=states)
def test_plain_values_into_live_ones(store: CheckpointStore, state: Any) -> None:
    store.save("x", {"a": state})
    live = {"a": None}
    assert store.load("x", into=live) is live
    assert bits(live["a"]) == bits(state)


def test_depth_has_a_limit_that_saving_names(store: CheckpointStore) -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    assert trip(store, nested(100)) == nested(100)
    with pytest.raises(StateError, match="nested too deeply"):
        store.save("x", nested(101))
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(StateError, match="contains itself"):
        store.save("x", circle)


@pytest.mark.parametrize(
    "names",
    [["a", "a~2", "a~3"], ["1", 1, 1.0, True], ["%", "%25", "/", "%2F"], ["", "%"], ["%run", "steps"], ["a/b", "a"]],
)
def test_names_that_look_alike_stay_apart(store: CheckpointStore, names: list[Any]) -> None:
    state = [(name, np.full(3, index)) for index, name in enumerate(names)]
    nested = {f"n{index}": {name: array} for index, (name, array) in enumerate(state)} | {
        "both": {name: {"b": array} for name, array in state if isinstance(name, str)}
    }
    loaded = trip(store, nested)
    assert loaded.keys() == nested.keys()
    for group in nested:
        for name in nested[group]:
            expected, found = tree_leaves(nested[group][name]), tree_leaves(loaded[group][name])
            assert all(np.array_equal(*pair) for pair in zip(expected, found, strict=True))


# NumPy.


def assert_same_array(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> None:
    assert type(a) is np.ndarray
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


DTYPES = [
    *(
        f"{order}{code}"
        for order in "<>"
        for code in ("i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    ),
    *("i1", "u1", "?", "g", "G", "S0", "S1", "S7", "U0", "U3", ">U3", "V0", "V5"),
    *(f"{order}{kind}8{unit}" for order in "<>" for kind in "Mm" for unit in ("", "[ns]", "[25s]", "[Y]", "[D]")),
    np.dtype([("a", "<i4"), ("b", ">f8")]),
    np.dtype([("a", "u1"), ("b", "<f8")], align=True),
    np.dtype([("a", "<i4", (2, 3)), ("n", [("x", "S3"), ("y", "M8[us]", 2)])]),
    np.dtype({"names": ["a", "b"], "formats": ["u1", "<i4"], "offsets": [3, 8], "itemsize": 20}),
    np.dtype({"names": ["b", "a"], "formats": ["<i4", "<i4"], "offsets": [4, 0]}),
    np.dtype([(("title", "a"), "<i4")]),
    np.dtype([("", "<i4"), ("", "<i4")]),
    np.dtype([("ä/%", "<i4")]),
]
SHAPES = [(), (0,), (3,), (2, 3), (0, 3), (2, 1, 3)]


def filled(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """An array of random bits, valid as text and booleans."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    data = np.random.default_rng(seed).integers(0, 256, count, dtype="u1")
    if dtype.kind in "UVS?" or dtype.names:
        data %= 2
    if dtype.kind == "U":
        swap = dtype.byteorder == ">"
        return (
            np.frombuffer(data.view("u1").astype(">u4" if swap else "<u4").tobytes()[:count], dtype)
            .reshape(shape)
            .copy()
            if count
            else np.zeros(shape, dtype)
        )
    return np.frombuffer(data.tobytes(), dtype).reshape(shape).copy() if count else np.zeros(shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numpy_dtypes(store: CheckpointStore, dtype: Any) -> None:
    arrays = [filled(dtype, shape, seed) for seed, shape in enumerate(SHAPES)]
    for before, after in zip(arrays, trip(store, arrays), strict=True):
        assert_same_array(after, before)
        after.flags.writeable = True
    if np.dtype(dtype).itemsize:
        live = [filled(dtype, shape, 99) for shape in SHAPES]
        store.load("x", into=live)
        for before, after in zip(arrays, live, strict=True):
            if not np.dtype(dtype).names:
                assert_same_array(after, before)


@quick
@given(data=st.data())
def test_numpy_arrays_of_any_layout(store: CheckpointStore, data: st.DataObject) -> None:
    dtype = data.draw(hnp.scalar_dtypes() | hnp.array_dtypes() | hnp.nested_dtypes(max_itemsize=64))
    array = filled(dtype, data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    layout = data.draw(st.sampled_from(["C", "F", "T", "step", "reversed", "broadcast", "frozen"]))
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "T":
        array = array.T
    elif layout == "step":
        array = np.repeat(array[..., None], 2, axis=-1)[..., ::2]
    elif layout == "reversed" and array.ndim:
        array = array[::-1]
    elif layout == "broadcast":
        array = np.broadcast_to(array, (3, *array.shape))
    elif layout == "frozen":
        array.flags.writeable = False
    after = trip(store, {"a": array})["a"]
    assert_same_array(after, array)
    assert after.flags.writeable
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        assert after.flags.f_contiguous


SCALARS = [
    *(np.dtype(code).type(1) for code in ("i1", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "?")),
    np.longdouble(1) / 3, np.float32("nan"), np.float64("-0.0"),
    np.datetime64("NaT"), np.datetime64("2020-01-01T00:00:00.123", "ns"), np.timedelta64(5, "25s"),
    np.str_(""), np.str_("ä\0"), np.str_("\ud800"), np.bytes_(b""), np.bytes_(b"a\0"), np.bytes_(b"x" * 300),
    np.void(b""), np.void(b"\0\1"), np.array((1, 2.0), [("a", "i4"), ("b", ">f8")])[()],
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(SCALARS)), ids=lambda index: repr(SCALARS[index])[:30])
def test_numpy_scalars(store: CheckpointStore, index: int) -> None:
    before = SCALARS[index]
    after = trip(store, before)
    assert type(after) is type(before)
    assert after.dtype == before.dtype
    if isinstance(before, str | bytes):
        assert (len(after), after) == (len(before), before)
    else:
        assert np.array(after).tobytes()[:10] == np.array(before).tobytes()[:10]
    if before.dtype.names:
        after["a"] = 7
        assert after["a"] == 7


def test_numpy_dtypes_as_values(store: CheckpointStore) -> None:
    dtypes = [np.dtype(dtype) for dtype in DTYPES]
    assert trip(store, dtypes) == dtypes


def test_structures_of_one_size_do_not_fit_each_other(store: CheckpointStore) -> None:
    store.save("x", {"s": np.ones(2, [("x", "<i8"), ("y", "<i8")])})
    live = {"s": np.zeros(2, [("a", "<f8"), ("b", "<f8")])}
    with pytest.raises(MismatchError, match="s is saved as"):
        store.load("x", into=live)
    assert not live["s"]["a"].any()


BITS = [np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64]


def draws(rng: Any) -> list[Any]:
    return [
        rng.random(),
        rng.integers(0, 2**63),
        rng.standard_normal(3).tolist(),
        rng.spawn(2)[1].random(),
        rng.bytes(3),
    ]


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("live", [True, False])
def test_numpy_generators(store: CheckpointStore, kind: Any, live: bool) -> None:
    rng = np.random.Generator(kind(np.random.SeedSequence(5, spawn_key=(1, 2))))
    rng.integers(0, 2**31, 3, dtype="i4")
    rng.spawn(3)
    store.save("x", {"rng": rng})
    target = {"rng": np.random.Generator(kind(9))}
    known = target["rng"]
    after = store.load("x", into=target if live else None)["rng"]
    assert (after is known) == live
    assert draws(after) == draws(rng)


@pytest.mark.parametrize("kind", [None, *BITS])
@pytest.mark.parametrize("live", [True, False])
def test_numpy_random_states(store: CheckpointStore, kind: Any, live: bool) -> None:
    rng = np.random.RandomState(3) if kind is None else np.random.RandomState(kind(3))
    rng.standard_normal()
    store.save("x", {"rng": rng})
    target = {"rng": np.random.RandomState(9)}
    after = store.load("x", into=target if live else None)["rng"]
    assert after.standard_normal(3).tolist() == rng.standard_normal(3).tolist()
    assert after.randint(0, 9, 5).tolist() == rng.randint(0, 9, 5).tolist()


def test_python_generators(store: CheckpointStore) -> None:
    rng = random.Random(3)
    rng.gauss(0, 1)
    after = trip(store, rng)
    assert [after.gauss(0, 1), after.random()] == [rng.gauss(0, 1), rng.random()]
    rng.gauss(0, 1)
    store.save("x", rng)
    live = random.Random(1)
    assert store.load("x", into=live) is live
    assert [live.gauss(0, 1), live.random()] == [rng.gauss(0, 1), rng.random()]


def test_packs_are_read_by_safetensors(tmp_path: Any) -> None:
    from safetensors.numpy import load_file

    store = CheckpointStore(tmp_path)
    state = {
        "a": filled("<f8", (150_000,)),
        "b": {"c/d": filled("<i2", (3, 2)), "s": filled("?", (5,)), "empty": filled("<f4", (0, 3))},
        "__metadata__": filled("<f4", (2,)),
        "big-endian": filled(">f8", (3,)),
        "F": np.asfortranarray(filled("<f4", (3, 4))),
    }
    store.save("x", state)
    (pack,) = (tmp_path / "checkpoints/x/packs").iterdir()
    tensors = load_file(pack)
    assert_same_array(tensors["a"], state["a"])
    assert_same_array(tensors["b/c%2Fd"], state["b"]["c/d"])
    assert_same_array(tensors["F"], np.ascontiguousarray(state["F"]))
    assert len(tensors) == 7
    assert trip(store, state).keys() == state.keys()


# torch.


def torch_dtypes() -> list[torch.dtype]:
    """Every dtype that a tensor can be made of and filled with bytes."""
    found = []
    for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = torch.empty(2, dtype=dtype)
            if not made.is_quantized:
                made.copy_(made.clone())
                found.append(dtype)
        except (RuntimeError, TypeError, NotImplementedError):
            continue
    return sorted(found, key=str)


def raw(value: torch.Tensor) -> bytes:
    flat = torch.empty(value.numel(), dtype=value.dtype)
    flat.copy_(value.detach().reshape(-1))
    return flat.view(torch.uint8).numpy().tobytes()


def assert_same_tensor(a: torch.Tensor, b: torch.Tensor) -> None:
    assert type(a) is type(b)
    assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, b.requires_grad)
    assert raw(a) == raw(b)


@pytest.mark.parametrize("dtype", torch_dtypes(), ids=str)
def test_torch_dtypes(store: CheckpointStore, dtype: torch.dtype) -> None:
    width = torch.empty(0, dtype=dtype).itemsize
    limit = 2 if dtype is torch.bool else 256
    base = torch.randint(0, limit, (24 * width,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    flat = base.view(dtype)
    tensors = [flat, flat.view(2, 3, 4)[:, 1], flat[3], flat[:0], flat.view(4, 6).t(), flat.clone()[::2]]
    for before, after in zip(tensors, trip(store, tensors), strict=True):
        assert_same_tensor(after, before)
    live = [torch.empty_like(before) for before in tensors]
    store.load("x", into=live)
    for before, after in zip(tensors, live, strict=True):
        assert raw(after) == raw(before)


def test_torch_layouts_and_flags(store: CheckpointStore) -> None:
    conjugate = torch.randn(3, dtype=torch.complex64).conj()
    state = {
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "transposed": torch.randn(3, 4).t(),
        "expanded": torch.randn(3, 1).expand(3, 4),
        "step": torch.arange(10)[::3],
        "grad": torch.randn(3, requires_grad=True),
        "computed": torch.randn(3, requires_grad=True) * 2,
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "frozen": torch.nn.Parameter(torch.randn(2), requires_grad=False),
        "buffer": torch.nn.Buffer(torch.randn(2)),
        "conj": conjugate,
        "neg": conjugate.imag,
        "empty": torch.empty(0, 3),
        "zero-d": torch.tensor(1.5),
        "nan": torch.tensor([float("nan"), -0.0]),
    }
    after = trip(store, state)
    for key, before in state.items():
        assert_same_tensor(after[key], before.detach().requires_grad_() if key == "computed" else before)
    assert after["channels_last"].stride() == state["channels_last"].stride()
    assert after["transposed"].stride() == state["transposed"].stride()
    assert after["grad"].is_leaf


def test_torch_constants_and_generators(store: CheckpointStore) -> None:
    generator = torch.Generator().manual_seed(4)
    torch.randn(3, generator=generator)
    state = [torch.Size([2, 3]), torch.device("cpu"), torch.bfloat16, generator]
    after = trip(store, state)
    assert after[:3] == state[:3]
    assert [type(value) for value in after] == [type(value) for value in state]
    assert torch.equal(torch.randn(3, generator=after[3]), torch.randn(3, generator=generator))
    store.save("x", {"g": generator})
    live = {"g": torch.Generator().manual_seed(99)}
    known = live["g"]
    store.load("x", into=live)
    assert live["g"] is known
    assert torch.equal(torch.randn(3, generator=known), torch.randn(3, generator=generator))


def overlaps(views: list[torch.Tensor]) -> list[bool]:
    """Which pairs see each other's writes."""
    seen = []
    for first, second in itertools.permutations(range(len(views)), 2):
        before = views[second].clone()
        views[first].add_(1)
        seen.append(not torch.equal(before, views[second]))
        views[first].sub_(1)
    return seen


@quick
@given(
    cuts=st.lists(st.tuples(st.integers(0, 29), st.integers(1, 30), st.integers(1, 4)), min_size=2, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_views_that_share_memory_share_it_again(store: CheckpointStore, cuts: Any, order: random.Random) -> None:
    base = torch.arange(30.0)
    views = [view for view in (base[start:end:step] for start, end, step in cuts) if view.numel()]
    order.shuffle(views)
    after = trip(store, {"views": views})["views"]
    for one, other in zip(views, after, strict=True):
        assert_same_tensor(other, one)
    assert overlaps(after) == overlaps(views)


def test_views_of_several_dtypes_share_memory(store: CheckpointStore) -> None:
    base = torch.zeros(64, dtype=torch.uint8)
    views = [base.view(torch.float64), base[8:24].view(torch.int16), base[3:5], base.view(torch.complex64)[1:]]
    after = trip(store, views)
    after[0][1] = 3.5
    assert raw(after[1]) == raw(after[0])[8:24]
    assert raw(after[3]) == raw(after[0])[8:]


def test_views_save_only_what_they_need(store: CheckpointStore) -> None:
    huge = torch.zeros(10_000_000)
    assert store.save("x", huge[5:10]).nbytes == 20
    assert store.save("x", [huge[:5], huge[-5:]]).nbytes == 40
    assert store.save("x", [huge[:5], huge[3:9], huge[-5:], huge[-7:]]).nbytes < 100
    assert store.save("x", huge.view(1000, -1)[:, :2][::500]).nbytes < 100


def test_tied_weights_stay_tied(store: CheckpointStore) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 3))
    after = trip(store, {"a": weight, "b": [weight], "c": weight.data})
    assert after["a"] is after["b"][0]
    with torch.no_grad():
        after["a"].add_(1)
    assert torch.equal(after["c"], after["a"])


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(6, 6)
        self.norm = torch.nn.BatchNorm1d(6)
        self.drop = torch.nn.Dropout(0.3)
        self.b = torch.nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return self.b(self.drop(torch.relu(self.norm(self.a(x)))))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adam foreach": lambda p: torch.optim.Adam(p, 1e-2, foreach=True, amsgrad=True),
    "adam fused": lambda p: torch.optim.Adam(p, 1e-2, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2),
    "sgd momentum": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
    "sgd fused": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 1e-2, max_iter=3),
}
SCHEDULERS: list[Callable[[Any], Any]] = [
    lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 20, cycle_momentum=False),
    lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
]


def training(optimizer: str, scheduler: int) -> dict[str, Any]:
    model = Tied()
    made = OPTIMIZERS[optimizer](model.parameters())
    return {"model": model, "optimizer": made, "scheduler": SCHEDULERS[scheduler](made), "rng": torch.Generator()}


def train(state: dict[str, Any], steps: int) -> list[bytes]:
    model, optimizer, scheduler = state["model"], state["optimizer"], state["scheduler"]
    for _ in range(steps):
        x = torch.randn(8, 6, generator=state["rng"])

        def closure(x: torch.Tensor = x) -> torch.Tensor:
            optimizer.zero_grad()
            loss = ((model(x) - x.flip(1)) ** 2).mean()
            loss.backward()
            return loss

        loss = optimizer.step(closure).detach()
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(float(loss))
        else:
            scheduler.step()
    return [raw(value) for value in model.state_dict().values()] + [repr(scheduler.get_last_lr()).encode()]


@pytest.mark.parametrize(("optimizer", "scheduler"), [(name, i % 4) for i, name in enumerate(OPTIMIZERS)])
def test_training_goes_on_bit_for_bit(optimizer: str, scheduler: int) -> None:
    store = CheckpointStore(MemoryStorage())
    torch.manual_seed(0)
    state = training(optimizer, scheduler)
    train(state, 4)
    store.save("x", state)
    generator = torch.get_rng_state()
    expected = train(state, 5)
    torch.manual_seed(1)
    live = training(optimizer, scheduler)
    train(live, 1)
    store.load("x", into=live)
    torch.set_rng_state(generator)
    assert live["model"].a.weight is live["model"].b.weight
    assert train(live, 5) == expected


def test_a_saved_module_is_a_state_dict_without_it(store: CheckpointStore) -> None:
    model = Tied()
    after = trip(store, {"model": model})["model"]
    assert type(after) is collections.OrderedDict
    assert after._metadata == model.state_dict()._metadata
    other = Tied()
    other.load_state_dict(after)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))


# Classes.


class Pair(NamedTuple):
    left: Any
    right: Any = None


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796 - an alias


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Open:
    a: Any
    b: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: Any


@dataclasses.dataclass(slots=True)
class Slotted:
    a: Any
    b: Any = 2


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotted:
    a: Any


@dataclasses.dataclass
class Checked:
    a: int
    twice: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.twice = 2 * self.a


CLASSES = [Pair, Colour, Level, Open, Frozen, Slotted, FrozenSlotted, Checked]


def instances() -> list[Any]:
    return [
        Pair(1, {"k": Pair(2)}), Colour.RED, Colour.CRIMSON, Level.LOW, Access.READ | Access.WRITE, Access(0),
        Open(1, [2]), Frozen(Open(Slotted(1))), Slotted((1, 2)), FrozenSlotted(Frozen(None)), Checked(4),
        {Colour.RED: 1, Pair(1): 2}, collections.Counter("aab"), collections.deque([1, 2], maxlen=3),
        collections.defaultdict(list, {"a": [1]}),
        slice(1, 2), 1 + 2j, object, len,
    ]  # fmt: skip


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.state.classes._registered", {})
    for cls in CLASSES:
        perdure.register(cls)


def test_classes_signed(store: CheckpointStore) -> None:
    for before in instances():
        after = trip(store, before)
        assert type(after) is type(before)
        assert after == before


def test_classes_registered_need_no_key(registered: None, tmp_path: Any) -> None:
    storage = MemoryStorage()
    plain_ones = [one for one in instances() if type(one) in CLASSES]
    assert len(plain_ones) >= 9
    CheckpointStore(storage).save("x", plain_ones)
    assert not (tmp_path / ".perdure-config").exists(), "nothing had to be signed"
    assert CheckpointStore(storage, objects="refuse").load("x") == plain_ones


def test_registering_anything_else_is_refused() -> None:
    class Ordinary:
        pass

    with pytest.raises(perdure.PerdureError, match="Ordinary is not"):
        perdure.register(Ordinary)


def test_live_values_inside_classes_are_filled_in_place(store: CheckpointStore) -> None:
    for make in (Pair, Open, Frozen, Slotted, FrozenSlotted):
        saved = make(torch.nn.Linear(2, 2))
        store.save("x", saved)
        live = make(torch.nn.Linear(2, 2))
        module = live[0] if isinstance(live, tuple) else live.a
        after = store.load("x", into=live)
        assert (after[0] if isinstance(after, tuple) else after.a) is module
        source = saved[0] if isinstance(saved, tuple) else saved.a
        assert torch.equal(module.weight, source.weight), make


class Inside:
    __slots__ = ("a",)


class Outside(Inside):
    """Has slots and a `__dict__`."""


class Items(list[Any]):
    """Has items and a `__dict__`."""


class Custom:
    def __init__(self, value: Any) -> None:
        self.value = value


def test_objects_come_back_whole_into_live_ones(store: CheckpointStore) -> None:
    outside, items, counter = Outside(), Items([1, 2]), collections.Counter("aab")
    outside.a, outside.b, items.note = 1, 2, "n"  # type: ignore[attr-defined]
    masked = np.ma.masked_array([1, 2, 3], [True, False, False])
    store.save("x", {"o": outside, "i": items, "c": counter, "m": masked, "u": Custom(5)})
    stale = Outside()
    stale.a = 0
    live = {"o": stale, "i": Items([9]), "c": collections.Counter(), "m": np.ma.masked_array([0]), "u": Custom(0)}
    known = live["u"]
    store.load("x", into=live)
    assert (live["o"].a, live["o"].b) == (1, 2)
    assert (list(live["i"]), live["i"].note) == ([1, 2], "n")
    assert live["c"] == counter
    assert live["m"].tolist() == [None, 2, 3]
    assert live["u"] is known
    assert live["u"].value == 5
