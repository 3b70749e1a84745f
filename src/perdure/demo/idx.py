"""The four files of MNIST: what they must be, and how IDX is read."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perdure.errors import DamagedError


@dataclass(frozen=True, slots=True)
class IdxFile:
    """One canonical file, uncompressed."""

    name: str
    size: int
    md5: str


FILES = (
    IdxFile("train-images-idx3-ubyte", 47_040_016, "6bbc9ace898e44ae57da46a324031adb"),
    IdxFile("train-labels-idx1-ubyte", 60_008, "a25bea736e30d166cdddb491f175f624"),
    IdxFile("t10k-images-idx3-ubyte", 7_840_016, "2646ac647ad5339dbf082846283269ea"),
    IdxFile("t10k-labels-idx1-ubyte", 10_008, "27ae3e4e09519cfbb04c329615203637"),
)


def check(files: Mapping[str, bytes]) -> None:
    """DamagedError unless these are the four canonical files, byte for byte."""
    for file in FILES:
        if file.name not in files:
            raise DamagedError(f"{file.name} is missing")
        found = hashlib.md5(files[file.name], usedforsecurity=False).hexdigest()
        if found != file.md5:
            raise DamagedError(f"{file.name} has md5 {found} instead of {file.md5}")


def parse(data: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; DamagedError when it is none, or not all of it is there."""
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise DamagedError("this is no IDX file of unsigned bytes")
    rank = data[3]
    start = 4 + 4 * rank
    if rank == 0 or len(data) < start:
        raise DamagedError("the IDX header is cut short")
    shape = struct.unpack(f">{rank}I", data[4:start])
    expected = int(np.prod(shape, dtype=object))
    if len(data) - start != expected:
        raise DamagedError(f"{len(data) - start} bytes follow the IDX header, and it announces {expected}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
