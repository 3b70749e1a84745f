"""The contract of a storage: bytes under keys, whole or not at all, durable on return."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from perdure import registry
from perdure.errors import UsageError

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Traits:
    """What a storage can do; callers branch on this, never on its type.

    atomic_create: `put(..., if_absent=True)` admits exactly one of several writers.
    durable: what `put` has returned from survives the loss of power.
    """

    atomic_create: bool
    durable: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored key: its size in bytes and when it was written, in Unix seconds by the storage's own clock."""

    key: str
    size: int
    modified: float


@runtime_checkable
class Storage(Protocol):
    """Bytes under keys.

    A key is segments joined by `/` (`perdure.storage.keys.check_key`); what comes before the last one is its
    folder. Every method may raise StorageError; none of them ever answers "absent" for "could not look".
    """

    @property
    def traits(self) -> Traits: ...

    @property
    def where(self) -> str:
        """The address, for messages and for opening the same storage again."""
        ...

    def put(self, key: str, chunks: Iterable[Buffer], *, if_absent: bool = False) -> int:
        """Store the concatenated chunks, whole or not at all; durable on return. Returns the bytes written.

        Readers see the old content, the new one, or (for a new key) nothing, never a part. With `if_absent`,
        KeyExists when the key is taken, and its content stays. StorageFull when space or quota is gone.
        """
        ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Up to `length` bytes from `start` (all when None); fewer only at the end. KeyMissing when absent."""
        ...

    def read_into(self, key: str, start: int, out: memoryview) -> int:
        """Fill `out` from `start`; returns the bytes read, fewer only at the end. KeyMissing when absent."""
        ...

    def entries(self, folder: str) -> list[Entry]:
        """Every key directly inside `folder`, in order of key, complete; empty when there is none."""
        ...

    def folders(self, folder: str) -> list[str]:
        """The last segments of the folders directly inside `folder` ("" is the top), in order, complete.

        A folder that holds no key any more may be among them.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove the key, durably; absent is fine."""
        ...

    def tidy(self, folder: str) -> int:
        """Remove what dead writers left of unfinished puts in `folder`; returns how many. Safe at any time."""
        ...


def open_storage(where: str | os.PathLike[str] | Storage) -> Storage:
    """The storage at an address: a path, `file:///path` or `memory://name`; a Storage is returned as it is."""
    if isinstance(where, Storage):
        return where
    text = os.fspath(where)
    scheme, separator, rest = text.partition("://")
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is not an address of a storage", hint="give a directory")
    if not separator:
        scheme, rest = "file", text
    return cast(Storage, registry.load("storage", scheme)(Path(rest) if scheme == "file" else rest))
