"""Real handwritten digits: MNIST where it can be had, else those that come with scikit-learn."""

from __future__ import annotations

import subprocess
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perdure.config import Settings
from perdure.demo import fetch
from perdure.demo.idx import FILES, check, parse
from perdure.errors import KeyMissing, MissingExtraError, PerdureError

_EPOCH = 60_000
_HELD_OUT = 5
_FAILURES = (
    PerdureError, OSError, EOFError, HTTPException, zlib.error, tarfile.TarError, subprocess.SubprocessError
)  # fmt: skip

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Digits:
    """Images as float32 in [0, 1], 784 a row, and int64 labels; `held_out_*` are never trained on.

    `source` says in words where they come from; `use` is what gives the same ones again in another process.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]
    source: str
    use: str


def load(use: str = "best", cache: Path | None = None, say: Say = lambda text: None) -> Digits:
    """The digits: "best" tries all sources, "cache" and "digits" take just that one.

    Whatever MNIST comes from is checked against the md5 of the canonical files, and kept in the cache.
    """
    cache = cache or Settings.read().cache_dir / "mnist"
    if use == "digits":
        return small_digits()
    if use == "cache":
        return _mnist(fetch.from_cache(cache), "the cache")
    for source, get in fetch.SOURCES.items():
        try:
            digits = _mnist(files := get(cache), source)
        except KeyMissing:
            continue
        except _FAILURES as error:
            say(f"MNIST from {source}: not this time ({error})")
            continue
        if get is not fetch.from_cache:
            fetch.keep(cache, files)
        return digits
    say("MNIST cannot be had here: these are the 1,797 digits of scikit-learn, 8x8, made 28x28")
    return small_digits()


def small_digits() -> Digits:
    """scikit-learn's 8x8 digits, each pixel made 3x3 with a margin of 2; every fifth is held out.

    There are few, so one epoch goes through them about forty times.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError.of("scikit-learn", "demo") from error
    bunch: Any = load_digits()
    large = np.pad(bunch.images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    images = (large.reshape(len(large), -1) / 16).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    held_out = np.arange(len(labels)) % _HELD_OUT == 0
    times = max(1, _EPOCH // int((~held_out).sum()))
    return Digits(
        np.tile(images[~held_out], (times, 1)),
        np.tile(labels[~held_out], times),
        images[held_out],
        labels[held_out],
        f"scikit-learn's 1,797 digits, 8x8 made 28x28; an epoch is {times} passes over {len(labels[~held_out]):,}",
        "digits",
    )


def _mnist(files: fetch.Files, source: str) -> Digits:
    check(files)
    images, labels, held_out_images, held_out_labels = (parse(files[file.name]) for file in FILES)
    return Digits(
        _flat(images),
        labels.astype(np.int64),
        _flat(held_out_images),
        held_out_labels.astype(np.int64),
        f"MNIST, 60,000 + 10,000 digits, from {source}",
        "cache",
    )


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.multiply(images.reshape(len(images), -1), np.float32(1 / 255), dtype=np.float32)
