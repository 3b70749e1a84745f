"""torch goes in and comes out exactly: every dtype, shared memory, modules, optimizers, schedulers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="install it with: pip install 'perdure[torch]'")

from perdure.errors import MismatchError, StateError
from perdure.storage import MemoryStorage
from perdure.store import CheckpointStore

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

DTYPES = sorted(
    {
        value
        for value in vars(torch).values()
        # Quantised and sub-byte types have no dense tensors that can be made or copied on a CPU.
        if isinstance(value, torch.dtype) and not str(value).startswith(("torch.q", "torch.bits")) and value.itemsize
    }
    - {getattr(torch, f"{sign}int{bits}", None) for sign in ("u", "") for bits in range(1, 8)},
    key=str,
)


def round_trip(value: Any, **options: Any) -> Any:
    store = CheckpointStore(MemoryStorage(), **options)
    store.save("k", value)
    return store.load("k")


def bits(tensor: Any) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b""


def made(dtype: Any, *shape: int) -> Any:
    """Random bits as a tensor; bool has only two valid ones."""
    count = int(torch.tensor(shape).prod()) if shape else 1
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (count * dtype.itemsize,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_every_dtype_and_shape(dtype: Any, shape: tuple[int, ...]) -> None:
    tensor = made(dtype, *shape)
    again = round_trip({"t": tensor}, objects="refuse")["t"]
    assert (again.dtype, again.shape, bits(again)) == (tensor.dtype, tensor.shape, bits(tensor))


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[::2],
        lambda t: t.transpose(0, 2),
        lambda t: t[:, 1:, ::3],
        lambda t: t.expand(5, *t.shape),
        lambda t: t.conj() if t.is_complex() else -t,
        lambda t: t.to(memory_format=torch.channels_last),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16], ids=str)
def test_views(view: Callable[[Any], Any], dtype: Any) -> None:
    tensor = view(torch.randn(4, 5, 6, 2).to(dtype))
    again = round_trip(tensor, objects="refuse")
    assert torch.equal(again, tensor)
    if 0 not in tensor.stride():
        assert again.is_contiguous() or again.stride() == tensor.stride()


def test_strides_of_channels_last_are_kept() -> None:
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert round_trip(tensor).stride() == tensor.stride()


def test_a_small_view_of_huge_memory_saves_only_itself() -> None:
    store = CheckpointStore(MemoryStorage())
    assert store.save("k", {"t": torch.zeros(10_000_000)[5:8]}).nbytes == 12


def test_views_that_share_memory_stay_shared() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = {"base": base, "row": base[1], "column": base[:, 2], "ints": base.view(torch.int32), "again": base}
    store = CheckpointStore(MemoryStorage())
    assert store.save("k", state).nbytes == 96
    again = store.load("k")
    for key, value in state.items():
        assert torch.equal(again[key], value)
    again["row"].fill_(-1)
    assert again["base"][1].tolist() == [-1] * 6
    assert again["column"][1] == -1
    again["again"][0, 0] = 99
    assert again["base"][0, 0] == 99


def test_tied_weights_are_one() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    store = CheckpointStore(MemoryStorage())
    assert store.save("k", {"model": model}).nbytes == 8 * 8 * 4
    state = store.load("k")["model"]
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.zero_()
    store.load("k", into={"model": other})
    assert torch.equal(other[1].weight, model[1].weight)
    assert other[0].weight is other[1].weight


def test_parameters_and_gradients() -> None:
    state = {
        "p": torch.nn.Parameter(torch.ones(2)),
        "f": torch.nn.Parameter(torch.ones(2), False),
        "g": torch.ones(2, requires_grad=True),
    }
    again = round_trip(state, objects="refuse")
    assert type(again["p"]) is torch.nn.Parameter
    assert [again[key].requires_grad for key in "pfg"] == [True, False, True]


def test_constants_and_generators() -> None:
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    state = {"g": generator, "s": torch.Size([1, 2]), "d": torch.device("cpu"), "t": torch.bfloat16}
    again = round_trip(state, objects="refuse")
    live = {"g": torch.Generator(), "s": None, "d": None, "t": None}
    store = CheckpointStore(MemoryStorage())
    store.save("k", state)
    kept = live["g"]
    store.load("k", into=live)
    expected = torch.rand(3, generator=generator)
    assert torch.equal(torch.rand(3, generator=again["g"]), expected)
    assert torch.equal(torch.rand(3, generator=kept), expected)
    assert (again["s"], again["d"], again["t"]) == (state["s"], state["d"], state["t"])
    assert type(again["s"]) is torch.Size


def test_sparse_goes_by_pickle_and_meta_is_refused() -> None:
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(round_trip({"s": sparse})["s"].to_dense(), torch.eye(3))
    with pytest.raises(StateError, match="m is on the meta device"):
        round_trip({"m": torch.empty(3, device="meta")})


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.drop = torch.nn.Dropout(0.3)
        self.last = torch.nn.Linear(8, 1)

    def forward(self, x: Any) -> Any:
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
    "adamw-amsgrad": lambda p: torch.optim.AdamW(p, 1e-2, amsgrad=True),
    "adam-fused": lambda p: torch.optim.Adam(p, 1e-2, fused=True),
    "adam-foreach": lambda p: torch.optim.Adam(p, 1e-2, foreach=True),
    "sgd": lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2, centered=True),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 1e-2),
}


def train(state: dict[str, Any], steps: int) -> None:
    model, optimizer, scheduler = state["model"], state["optimizer"], state["scheduler"]
    for _ in range(steps):
        x = torch.randn(16, 4)

        def closure(x: Any = x) -> Any:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        scheduler.step()


def fresh(name: str, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    model = Net()
    optimizer = OPTIMIZERS[name](model.parameters())
    return {"model": model, "optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    state = fresh(name, 1)
    train(state, 5)
    store.save("k", {**state, "generator": torch.get_rng_state()})
    train(state, 5)
    other = {**fresh(name, 2), "generator": torch.get_rng_state()}
    store.load("k", into=other)
    torch.set_rng_state(other["generator"])
    train(other, 5)
    for (key, ours), theirs in zip(
        other["model"].state_dict().items(), state["model"].state_dict().values(), strict=True
    ):
        assert bits(ours) == bits(theirs), key
    assert other["scheduler"].state_dict() == state["scheduler"].state_dict()


def test_nothing_is_touched_when_something_does_not_fit() -> None:
    store = CheckpointStore(MemoryStorage())
    store.save("k", fresh("adam", 1))
    live = fresh("adam", 2)
    live["model"].last = torch.nn.Linear(8, 2)
    live["model"].extra = torch.nn.Linear(1, 1)
    before = copy.deepcopy(live["model"].state_dict())
    with pytest.raises(MismatchError) as caught:
        store.load("k", into=live)
    for path in ("model/last.weight", "model/last.bias", "model/extra.weight"):
        assert path in str(caught.value)
    assert "allow=" in str(caught.value)
    for key, value in live["model"].state_dict().items():
        assert torch.equal(value, before[key])


def test_allowed_differences_keep_the_live_value() -> None:
    store = CheckpointStore(MemoryStorage())
    source = fresh("adam", 1)["model"]
    store.save("k", {"model": source})
    live = fresh("adam", 2)["model"]
    live.last = torch.nn.Linear(8, 2)
    live.extra = torch.nn.Linear(1, 1)
    last = live.last.weight.detach().clone()
    store.load("k", into={"model": live}, allow=["missing", "reshaped"])
    assert torch.equal(live.first.weight, source.first.weight)
    assert torch.equal(live.last.weight, last)


def test_other_dtype_is_a_mismatch() -> None:
    store = CheckpointStore(MemoryStorage())
    store.save("k", {"w": torch.zeros(3)})
    with pytest.raises(MismatchError, match=r"w is saved as float32\[3\], live it is float64\[3\]"):
        store.load("k", into={"w": torch.zeros(3, dtype=torch.float64)})
