"""The network, one epoch of its training that gives the same bits every time, and its evaluation."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from perdure.demo.data import Digits
from perdure.errors import MissingExtraError

try:
    import torch
except ImportError as error:
    raise MissingExtraError.of("torch", "demo") from error

from torch import nn

PARAMETERS = 109_386
BATCH = 64

State = dict[str, Any]
"""What a checkpoint holds: model_state_dict, optimizer_state_dict, epoch, loss, accuracy (in percent)."""

Tick = Callable[[int, int, int], None]


def network() -> nn.Sequential:
    """784-128-64-10 with ReLU."""
    return nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )  # fmt: skip


def optimizer_of(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


@cache
def warm_up() -> None:
    """Let torch load what it loads with its first optimizer, so that nobody takes that for training."""
    optimizer_of(network())


def initial(seed: int) -> State:
    """The state before the first epoch."""
    torch.manual_seed(seed)
    model = network()
    return _state(model, optimizer_of(model), epoch=-1, loss=0.0, accuracy=0.0)


def train_epoch(state: State, digits: Digits, epoch: int, seed: int, tick: Tick = lambda *at: None) -> State:
    """The state after one more epoch; the same arguments give the same bits, in whatever process.

    `tick(epoch, batch, batches)` is called before each batch and once at the end.
    """
    # More threads would add the same numbers in another order.
    torch.set_num_threads(1)
    model = network()
    model.load_state_dict(state["model_state_dict"])
    optimizer = optimizer_of(model)
    optimizer.load_state_dict(state["optimizer_state_dict"])
    images, labels = tensors(digits.images, digits.labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    batches = torch.split(order, BATCH)
    loss_sum, right = 0.0, 0
    for number, batch in enumerate(batches):
        tick(epoch, number, len(batches))
        loss, hits = train_batch(model, optimizer, images[batch], labels[batch])
        loss_sum += loss * len(batch)
        right += hits
    tick(epoch, len(batches), len(batches))
    return _state(
        model, optimizer, epoch=epoch, loss=loss_sum / len(labels), accuracy=100 * right / len(labels)
    )  # fmt: skip


def train_batch(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, int]:
    """One step of training: the mean loss, and how many were right."""
    optimizer.zero_grad()
    output = model(images)
    loss = nn.functional.cross_entropy(output, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item(), int((output.argmax(1) == labels).sum())


def evaluate(weights: State, digits: Digits) -> float:
    """The share of held-out digits that these weights get right."""
    model = network()
    model.load_state_dict(weights)
    images, labels = tensors(digits.held_out_images, digits.held_out_labels)
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).double().mean())


def tensors(*arrays: Any) -> Iterator[torch.Tensor]:
    """Tensors on the memory of the arrays, which nothing here writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return iter([torch.from_numpy(array) for array in arrays])


def same(one: Any, other: Any) -> bool:
    """Whether two states are the same, bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and digest(one) == digest(other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def digest(*states: Any) -> str:
    """A digest of states, to compare by eye: names, types, shapes and every bit of every tensor."""
    sum_ = hashlib.sha256()
    for state in states:
        _feed(sum_, state)
    return sum_.hexdigest()


def _feed(sum_: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        sum_.update(f"{value.dtype}{tuple(value.shape)}".encode())
        sum_.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, item in value.items():
            sum_.update(repr(key).encode())
            _feed(sum_, item)
    elif isinstance(value, (list, tuple)):
        sum_.update(f"{type(value).__name__}{len(value)}".encode())
        for item in value:
            _feed(sum_, item)
    else:
        sum_.update(repr(value).encode())


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, **facts: float) -> State:
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        **facts,
    }
