"""The stateless Ray tasks of the main job: everything comes in, everything goes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.demo import data, model
from perdure.demo.killer import Meter
from perdure.errors import MissingExtraError

try:
    import ray
except ImportError as error:
    raise MissingExtraError.of("ray", "demo") from error

Span = tuple[float, float]
"""When the work of a task began and ended, in Unix seconds; starting its process is not part of it."""


def load_data(use: str, cache: str) -> tuple[data.Digits, Span]:
    began = time.time()
    digits = data.load(use, Path(cache))
    return digits, (began, time.time())


def init_model(seed: int) -> tuple[model.State, Span]:
    model.warm_up()
    began = time.time()
    state = model.initial(seed)
    return state, (began, time.time())


def train_epoch(
    state: model.State, digits: data.Digits, epoch: int, seed: int, meter: str
) -> tuple[model.State, Span]:
    model.warm_up()
    began = time.time()
    record = Meter(Path(meter))
    try:
        trained = model.train_epoch(state, digits, epoch, seed, record.tick)
    finally:
        record.close()
    return trained, (began, time.time())


def evaluate(state: model.State, digits: data.Digits) -> tuple[dict[str, float], Span]:
    began = time.time()
    accuracy = model.evaluate(state["model_state_dict"], digits)
    return {"loss": state["loss"], "accuracy": 100 * accuracy}, (began, time.time())


def submit(task: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """Start a task; a reference to its result, which may stay where it is, and one to its span.

    Ray itself must not retry: a killed task is gone, and the driver goes on from a checkpoint with a new one.
    """
    result, span = ray.remote(max_retries=0, num_returns=2)(task).remote(*arguments)
    return result, span
