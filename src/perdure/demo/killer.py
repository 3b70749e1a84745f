"""Kill a process by SIGKILL at a random moment of its training, and prove that it was training."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_RECORD = struct.Struct("<qqqqd")
_TAIL = 0.15


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a training is: batches done in this epoch, by which process, training since when (Unix seconds)."""

    pid: int
    epoch: int
    batch: int
    batches: int
    began: float

    @property
    def position(self) -> float:
        """In epochs: 2.5 is the middle of the third."""
        return self.epoch + self.batch / self.batches

    @property
    def training(self) -> bool:
        return self.batch < self.batches


@dataclass(frozen=True, slots=True)
class Hit:
    """A SIGKILL that was sent, and when (Unix seconds)."""

    pid: int
    time: float


class Meter:
    """Written by the process that trains, before each batch: a small file outlives a SIGKILL."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._began = time.time()

    def tick(self, epoch: int, batch: int, batches: int) -> None:
        os.pwrite(self._file.fileno(), _RECORD.pack(os.getpid(), epoch, batch, batches, self._began), 0)

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Moment | None:
    """What the meter shows; None before the first batch."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return Moment(*_RECORD.unpack(data)) if len(data) == _RECORD.size else None


def moments(kills: int, epochs: int, seed: int) -> list[float]:
    """Random positions to kill at, in epochs: one in each equal part of what follows the first epoch."""
    dice = random.Random(seed)
    low, high = float(min(1, epochs - 1)), epochs - _TAIL
    width = (high - low) / max(1, kills)
    return [dice.uniform(low + part * width, low + (part + 1) * width) for part in range(kills)]


def strike(meter: Path, target: float, over: Callable[[], bool], watch: Callable[[float], None]) -> Hit | None:
    """Wait until the training is past `target`, then kill it by SIGKILL.

    `over` waits a few milliseconds and says whether the work ended by itself: then nobody is killed, and the
    answer is None. The meter must be this attempt's own, so that its pid cannot be an older one.
    """
    while not over():
        moment = read(meter)
        if moment is None:
            continue
        watch(moment.position)
        if moment.training and moment.position >= target:
            os.kill(moment.pid, signal.SIGKILL)
            return Hit(moment.pid, time.time())
    return None
