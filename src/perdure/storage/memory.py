"""Keep bytes in this process: for tests and for states that need not survive it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from perdure.errors import KeyExists, KeyMissing
from perdure.storage.contract import Buffer, Entry, Traits
from perdure.storage.keys import check_folder, check_key


class MemoryStorage:
    """A dictionary that keeps the contract, atomic create included; nothing survives the process."""

    traits = Traits(atomic_create=True, durable=False)

    def __init__(self, name: str = "", *, clock: Callable[[], float] = time.time) -> None:
        self.where = f"memory://{name}"
        self._clock = clock
        self._lock = threading.RLock()  # a signal handler may save in the middle of a save
        self._data: dict[str, tuple[bytes, float]] = {}

    def put(self, key: str, chunks: Iterable[Buffer], *, if_absent: bool = False) -> int:
        check_key(key)
        data = b"".join(chunks)
        with self._lock:
            if if_absent and key in self._data:
                raise KeyExists(f"{key} exists already in {self.where}")
            self._data[key] = (data, self._clock())
        return len(data)

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = self._get(key)
        return data[start : len(data) if length is None else start + length]

    def read_into(self, key: str, start: int, out: memoryview) -> int:
        part = self._get(key)[start : start + len(out)]
        out[: len(part)] = part
        return len(part)

    def entries(self, folder: str) -> list[Entry]:
        prefix = "".join(f"{segment}/" for segment in check_folder(folder))
        with self._lock:
            return [
                Entry(key, len(data), modified)
                for key, (data, modified) in sorted(self._data.items())
                if key.startswith(prefix) and "/" not in key[len(prefix) :]
            ]

    def folders(self, folder: str) -> list[str]:
        prefix = "".join(f"{segment}/" for segment in check_folder(folder))
        with self._lock:
            inside = (key[len(prefix) :] for key in self._data if key.startswith(prefix))
            return sorted({rest.partition("/")[0] for rest in inside if "/" in rest})

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._data.pop(key, None)

    def tidy(self, folder: str) -> int:
        check_folder(folder)
        return 0

    def _get(self, key: str) -> bytes:
        check_key(key)
        with self._lock:
            if key not in self._data:
                raise KeyMissing(f"{key} is not in {self.where}")
            return self._data[key][0]


_shared: dict[str, MemoryStorage] = {}


def open_memory(name: str) -> MemoryStorage:
    """The memory storage of this name; one per name and process."""
    return _shared.setdefault(name, MemoryStorage(name))
