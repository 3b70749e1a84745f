"""Write a restored state to a file that other programs read: .npz, .pt or .json."""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from perdure import registry
from perdure.errors import PerdureError, StorageError, UsageError
from perdure.state import plain
from perdure.state.contract import adapter_of
from perdure.state.tree import join

_NAMED = 20


@dataclass(slots=True)
class Exported:
    """What was written: the number of arrays, and in words what the format changed or could not take."""

    arrays: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


Write = Callable[[Any, IO[bytes]], Exported]


def writer(to: Path, *, arrays_as_lists: bool) -> Write:
    """The function that writes what the ending of `to` says; UsageError lists the endings that are known."""
    if to.suffix == ".npz":
        return _npz
    if to.suffix == ".json":
        return lambda state, file: _json(state, file, arrays_as_lists)
    if to.suffix == ".pt":
        torch = registry.load("state", "torch")
        return lambda state, file: _pt(torch, state, file)
    ending = repr(to.suffix) if to.suffix else "a name without ending"
    raise UsageError(f"{to}: {ending} is no known format", hint="end it in .npz, .pt or .json")


@contextmanager
def replacing(to: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A new file that takes the place of `to`, whole, when the block ends well; UsageError when `to` is taken."""
    if os.path.lexists(to) and not force:
        raise UsageError(f"{to} exists", hint="choose another file, or pass --force to replace it")
    temporary = to.with_name(f".perdure-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(to)
    except PerdureError:
        raise
    except OSError as error:
        raise StorageError(f"{to} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def items(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, by the path that it has in a checkpoint."""
    if isinstance(value, dict):
        pairs: Any = value.items()
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        pairs = value._asdict().items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    else:
        yield path, value
        return
    for key, item in pairs:
        yield from items(item, join(path, key))


def _npz(state: Any, file: IO[bytes]) -> Exported:
    """Arrays under their paths; numbers, booleans and strings as arrays without dimensions; nothing else."""
    done = Exported()
    # Not `numpy.savez`: it takes names as keyword arguments, and has some of its own.
    with zipfile.ZipFile(file, "w") as archive:
        for path, value in items(state):
            array = _array(value, path, done.notes)
            if array is None:
                array = _scalar(value)
            else:
                done.arrays += 1
            if array is not None:
                with archive.open(f"{path or 'value'}.npy", "w", force_zip64=True) as member:
                    npy.write_array(member, array, allow_pickle=False)
            elif value is not None:
                done.left_out.append(f"{path or 'the state'} ({type(value).__name__})")
    return done


def _pt(torch: Any, state: Any, file: IO[bytes]) -> Exported:
    torch.write(state, file)
    return Exported(arrays=sum(_is_array(value) for _, value in items(state)))


def _json(state: Any, file: IO[bytes], arrays_as_lists: bool) -> Exported:
    arrays = [path or "the state" for path, value in items(state) if _is_array(value)]
    if arrays and not arrays_as_lists:
        more = f" and {len(arrays) - _NAMED} more" if len(arrays) > _NAMED else ""
        raise UsageError(
            f"JSON has no arrays, and these are some: {', '.join(arrays[:_NAMED])}{more}",
            hint="restore to .npz or .pt, pass --arrays to write them as lists, or choose others with --only",
        )
    done = Exported(len(arrays))
    text = json.dumps(_jsonable(state, "", done.notes), indent=2, ensure_ascii=False, allow_nan=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")
    return done


def _is_array(value: Any) -> bool:
    adapter = adapter_of(value)
    return adapter is not None and adapter.spec(value) is not None


def _array(value: Any, path: str, notes: list[str]) -> np.ndarray[Any, Any] | None:
    """An array or tensor as an array; None for anything else."""
    adapter = adapter_of(value)
    spec = adapter.spec(value) if adapter else None
    if spec is None:
        return None
    if spec.kind == "numpy":
        return np.asarray(value)
    array: np.ndarray[Any, Any] = registry.load("state", "torch").as_numpy(value)
    if array.dtype.name != spec.dtype:
        notes.append(f"{path or 'the state'}: {spec.dtype} as {array.dtype.name}, which holds all its values")
    return array


def _scalar(value: Any) -> np.ndarray[Any, Any] | None:
    """A value that an array without dimensions holds exactly; None for any other."""
    if isinstance(value, np.generic):
        return np.asarray(value)
    if type(value) is bool or type(value) is float or type(value) is complex:
        return np.asarray(value)
    if type(value) is int or type(value) is str:
        array = np.asarray(value)
        # Too large an integer becomes an object, and NumPy forgets zeros at the end of a string.
        return array if not array.dtype.hasobject and array.item() == value else None
    return None


def _jsonable(value: Any, path: str, notes: list[str]) -> Any:
    """The value as JSON: what is plain but has no form there as its text, bytes in base64, no NaN."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return _object(value.items(), path, notes)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _object(value._asdict().items(), path, notes)
    if isinstance(value, list | tuple):
        return [_jsonable(item, join(path, index), notes) for index, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_jsonable(item, path, notes) for item in value), key=lambda item: (str(type(item)), str(item)))
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _object(((one.name, getattr(value, one.name)) for one in dataclasses.fields(value)), path, notes)
    array = _array(value, path, notes)
    if array is not None:
        return _jsonable(array.tolist(), path, [])
    if isinstance(value, np.generic):
        native = value.item()
        return (
            str(value) if isinstance(native, np.generic) or value.dtype.kind in "mM" else _jsonable(native, path, [])
        )
    try:
        plain.encode(value)
    except LookupError:
        raise UsageError(
            f"JSON cannot hold {path or 'the state'}, a {type(value).__qualname__}",
            hint="choose others with --only, or restore it in Python with CheckpointStore.load",
        ) from None
    return str(value)


def _object(pairs: Any, path: str, notes: list[str]) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for key, item in pairs:
        name = key if isinstance(key, str) else str(key)
        if name in written:
            raise UsageError(f"{path or 'the state'} has two keys that JSON writes as {name!r}")
        written[name] = _jsonable(item, join(path, key), notes)
    return written
