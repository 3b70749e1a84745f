"""What cannot be saved is named, what does not fit is named, and what is shared stays shared."""

from __future__ import annotations

import collections
import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch

from perdure.errors import MismatchError, StateError
from perdure.storage import MemoryStorage
from perdure.store import CheckpointStore


@pytest.fixture
def store() -> CheckpointStore:
    return CheckpointStore(MemoryStorage())


def round_trip(value: Any) -> Any:
    store = CheckpointStore(MemoryStorage())
    store.save("k", value)
    return store.load("k")


@pytest.mark.parametrize("kind", [list, dict])
def test_a_cycle_is_refused_by_name(kind: type) -> None:
    inner: Any = kind()
    inner.append(inner) if kind is list else inner.update(me=inner)
    with pytest.raises(StateError, match="deep"):
        round_trip({"deep": inner})


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(StateError, match="a/b"):
        round_trip({"a": {"b": threading.Lock()}})


def test_a_tensor_without_data_is_refused() -> None:
    with pytest.raises(StateError, match="m is on the meta device"):
        round_trip({"m": torch.empty(3, device="meta")})


def test_one_array_in_two_places_stays_one() -> None:
    array = np.arange(4)
    again = round_trip({"a": array, "b": [array]})
    assert again["a"] is again["b"][0]


def test_what_only_pickle_knows_goes_by_pickle() -> None:
    masked = np.ma.masked_array([1, 2, 3], [False, True, False])
    again = round_trip(
        {
            "objects": np.array([1, "a", None], object),
            "masked": masked,
            "records": np.rec.array([(1, 2.0)], "i4,f8"),
            "sparse": torch.eye(3).to_sparse(),
            "counter": collections.Counter("abca"),
            "default": collections.defaultdict(list, {1: [2]}),
            "deque": collections.deque([1], 5),
        }
    )
    assert again["objects"].tolist() == [1, "a", None]
    assert (again["masked"].mask == masked.mask).all()
    assert type(again["records"]) is np.recarray
    assert torch.equal(again["sparse"].to_dense(), torch.eye(3))
    assert again["counter"]["a"] == 2
    assert again["default"]["new"] == []
    assert again["deque"].maxlen == 5


class Net(torch.nn.Module):
    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.last = torch.nn.Linear(8, outputs)


def test_nothing_is_touched_when_something_does_not_fit(store: CheckpointStore) -> None:
    store.save("k", {"model": Net(), "w": torch.zeros(3)})
    live = Net(2)
    live.extra = torch.nn.Linear(1, 1)
    before = copy.deepcopy(live.state_dict())
    with pytest.raises(MismatchError) as caught:
        store.load("k", into={"model": live, "w": torch.zeros(3, dtype=torch.float64)})
    for part in ("model/last.weight", "model/last.bias", "model/extra.weight", "w is saved as float32[3]", "allow="):
        assert part in str(caught.value)
    for key, value in live.state_dict().items():
        assert torch.equal(value, before[key])


def test_allowed_differences_keep_the_live_value(store: CheckpointStore) -> None:
    source, live = Net(), Net(2)
    store.save("k", {"model": source})
    live.extra = torch.nn.Linear(1, 1)
    last = live.last.weight.detach().clone()
    store.load("k", into={"model": live}, allow=["missing", "reshaped"])
    assert torch.equal(live.first.weight, source.first.weight)
    assert torch.equal(live.last.weight, last)
