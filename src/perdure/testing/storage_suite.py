"""The contract of a storage, as tests for its author.

class TestMine(StorageSuite):
    @pytest.fixture
    def storage(self) -> Storage:
        return MyStorage(...)        # empty
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import pytest

from perdure.errors import KeyExists, KeyMissing, StorageError
from perdure.storage.contract import Buffer, Storage

_T = TypeVar("_T")

UNSAFE = {
    "empty": "",
    "parent": "..",
    "climbing": "../x",
    "climbing inside": "a/../x",
    "here": "./x",
    "absolute": "/x",
    "folder only": "a/",
    "empty segment": "a//x",
    "NUL": "a/x\0y",
    "hidden": ".x",
    "hidden inside": "a/.tmp-x",
    "256 characters": "x" * 256,
    "blank": "a b",
    "newline": "x\n",
    "backslash": "a\\x",
    "not ASCII": "a/é",
}


class StorageSuite:
    """Subclass it and define a fixture `storage` that returns an empty Storage; nothing else is needed."""

    def test_is_a_storage(self, storage: Storage) -> None:
        assert isinstance(storage, Storage)
        assert storage.where

    # Content

    def test_reads_what_was_put(self, storage: Storage) -> None:
        assert storage.put("a/b/c", [b"hello ", b"world"]) == 11
        assert storage.read("a/b/c") == b"hello world"

    def test_key_without_a_folder(self, storage: Storage) -> None:
        storage.put("top", [b"1"])
        assert storage.read("top") == b"1"

    def test_longest_segment(self, storage: Storage) -> None:
        storage.put("x" * 255, [b"1"])
        assert storage.read("x" * 255) == b"1"

    def test_empty_values(self, storage: Storage) -> None:
        assert storage.put("a/none", []) == 0
        assert storage.put("a/blank", [b"", b""]) == 0
        assert storage.read("a/none") == storage.read("a/blank") == b""
        assert storage.read("a/none", 3, 5) == b""
        assert [entry.size for entry in storage.entries("a")] == [0, 0]

    def test_every_kind_of_buffer(self, storage: Storage) -> None:
        numbers = memoryview(bytes(range(16))).cast("I")
        table = memoryview(bytes(range(6))).cast("B", (2, 3))
        nothing = memoryview(b"").cast("I")
        scalar = memoryview(b"\x2a").cast("B", ())
        chunks: list[Buffer] = [
            b"ab",
            bytearray(b"cd"),
            memoryview(b"-ef-")[1:3],
            numbers,
            nothing,
            table,
            scalar,
        ]
        expected = b"abcdef" + bytes(range(16)) + bytes(range(6)) + b"\x2a"
        assert storage.put("k", chunks) == len(expected)
        assert storage.read("k") == expected

    def test_many_chunks_from_a_generator(self, storage: Storage) -> None:
        assert storage.put("k", (bytes([i % 256]) * 3 for i in range(5000))) == 15_000
        assert storage.read("k") == b"".join(bytes([i % 256]) * 3 for i in range(5000))

    def test_large_value(self, storage: Storage) -> None:
        data = random.Random(0).randbytes(8 << 20)
        assert storage.put("large", [data[: 5 << 20], memoryview(data)[5 << 20 :]]) == len(data)
        out = bytearray(len(data))
        assert storage.read_into("large", 0, memoryview(out)) == len(data)
        assert out == data
        assert storage.read("large", 5 << 20, 1000) == data[5 << 20 : (5 << 20) + 1000]

    def test_overwriting_is_whole(self, storage: Storage) -> None:
        storage.put("k", [b"a longer first value"])
        storage.put("k", [b"short"])
        assert storage.read("k") == b"short"
        assert [(entry.key, entry.size) for entry in storage.entries("")] == [("k", 5)]

    # Ranges

    @pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 1000])
    @pytest.mark.parametrize("length", [None, 0, 1, 5, 10, 1000])
    def test_ranges(self, storage: Storage, start: int, length: int | None) -> None:
        data = b"0123456789"
        storage.put("k", [data])
        expected = data[start:] if length is None else data[start : start + length]
        assert storage.read("k", start, length) == expected
        out = bytearray(b"?" * (12 if length is None else length))
        assert storage.read_into("k", start, memoryview(out)) == len(expected)
        assert out == expected + b"?" * (len(out) - len(expected))

    # Absence

    def test_absent_keys(self, storage: Storage) -> None:
        storage.put("a/here", [b"1"])
        for key in ("absent", "a/absent", "absent/x", "a/b/absent"):
            with pytest.raises(KeyMissing, match=key):
                storage.read(key)
            with pytest.raises(KeyMissing, match=key):
                storage.read_into(key, 0, memoryview(bytearray(1)))

    def test_nothing_is_listed_where_nothing_is(self, storage: Storage) -> None:
        for folder in ("", "absent", "absent/deep"):
            assert storage.entries(folder) == []
            assert storage.folders(folder) == []
            assert storage.tidy(folder) == 0

    def test_delete(self, storage: Storage) -> None:
        storage.put("a/k", [b"1"])
        storage.put("a/l", [b"2"])
        for _ in range(2):
            storage.delete("a/k")
            assert [entry.key for entry in storage.entries("a")] == ["a/l"]
        storage.delete("never/was")
        storage.delete("never")
        with pytest.raises(KeyMissing):
            storage.read("a/k")
        storage.put("a/k", [b"again"], if_absent=True)
        assert storage.read("a/k") == b"again"

    # Create if absent

    def test_if_absent_creates(self, storage: Storage) -> None:
        assert storage.put("a/k", [b"12", b"3"], if_absent=True) == 3
        assert storage.read("a/k") == b"123"

    def test_if_absent_keeps_what_is_there(self, storage: Storage) -> None:
        storage.put("a/k", [b"first"])
        with pytest.raises(KeyExists, match="k"):
            storage.put("a/k", [b"second"], if_absent=True)
        assert storage.read("a/k") == b"first"
        assert [entry.key for entry in storage.entries("a")] == ["a/k"]

    def test_if_absent_loses_to_a_put_that_ends_first(self, storage: Storage) -> None:
        if not storage.traits.atomic_create:
            pytest.skip("this storage says that it cannot create atomically")

        def chunks() -> Iterator[bytes]:
            yield b"slow"
            storage.put("a/k", [b"fast"], if_absent=True)
            yield b"slow"

        with pytest.raises(KeyExists):
            storage.put("a/k", chunks(), if_absent=True)
        assert storage.read("a/k") == b"fast"

    def test_if_absent_admits_one_of_eight(self, storage: Storage) -> None:
        if not storage.traits.atomic_create:
            pytest.skip("this storage says that it cannot create atomically")
        for turn in range(10):
            key = f"race/k{turn}"
            start = threading.Barrier(8)
            values = _together([partial(_create, storage, key, start, writer) for writer in range(8)])
            winners = [value for value in values if value]
            assert len(winners) == 1
            assert storage.read(key) == winners[0]

    # Listing

    def test_entries_are_in_order_complete_and_not_recursive(self, storage: Storage) -> None:
        names = [f"{letter}{i}" for i in range(40) for letter in "bA_~9"]
        random.Random(0).shuffle(names)
        for name in names:
            storage.put(f"f/{name}", [b"x" * len(name)])
        storage.put("f/sub/k", [b"1"])
        storage.put("fa", [b"1"])
        storage.put("fa.x/k", [b"1"])
        entries = storage.entries("f")
        assert [entry.key for entry in entries] == sorted(f"f/{name}" for name in names)
        assert all(entry.size == len(entry.key) - 2 and entry.modified > 0 for entry in entries)
        assert [entry.key for entry in storage.entries("")] == ["fa"]
        assert [entry.key for entry in storage.entries("f/sub")] == ["f/sub/k"]

    def test_folders(self, storage: Storage) -> None:
        for key in ("b/k", "a/k", "a/deep/er/k", "B/k", "top"):
            storage.put(key, [b"1"])
        assert storage.folders("") == ["B", "a", "b"]
        assert storage.folders("a") == ["deep"]
        assert storage.folders("a/deep") == ["er"]
        assert storage.folders("a/deep/er") == []

    def test_similar_names_do_not_meet(self, storage: Storage) -> None:
        for key in ("a/k", "a=/k", "a%2F/k", "aa/k", "a.b/k"):
            storage.put(key, [key.encode()])
        assert [entry.key for entry in storage.entries("a")] == ["a/k"]
        assert all(storage.read(key) == key.encode() for key in ("a/k", "a=/k", "a%2F/k", "aa/k", "a.b/k"))

    # Keys that could lead outside

    @pytest.mark.parametrize("key", UNSAFE.values(), ids=UNSAFE.keys())
    def test_unsafe_keys_are_refused(self, storage: Storage, key: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: storage.put(key, [b"1"]),
            lambda: storage.put(key, [b"1"], if_absent=True),
            lambda: storage.read(key),
            lambda: storage.read_into(key, 0, memoryview(bytearray(1))),
            lambda: storage.delete(key),
        ]
        if key:  # as a folder, "" is the top
            calls += [
                lambda: storage.entries(key),
                lambda: storage.folders(key),
                lambda: storage.tidy(key),
            ]
        for call in calls:
            with pytest.raises(StorageError) as caught:
                call()
            assert not isinstance(caught.value, KeyMissing), "refused is not absent"
        assert storage.entries("") == []
        assert storage.folders("") == []

    # Puts that do not end well, or not yet

    @pytest.mark.parametrize("if_absent", [False, True])
    def test_chunks_that_fail_publish_nothing(self, storage: Storage, if_absent: bool) -> None:
        with pytest.raises(ZeroDivisionError):
            storage.put("f/new", _failing(), if_absent=if_absent)
        assert storage.entries("f") == []
        with pytest.raises(KeyMissing):
            storage.read("f/new")
        assert storage.tidy("f") == 0, "a failed put leaves no litter"
        storage.put("f/new", [b"1"], if_absent=True)
        assert storage.read("f/new") == b"1"

    def test_chunks_that_fail_keep_what_is_there(self, storage: Storage) -> None:
        storage.put("f/k", [b"old"])
        with pytest.raises(ZeroDivisionError):
            storage.put("f/k", _failing())
        assert storage.read("f/k") == b"old"
        assert [(entry.key, entry.size) for entry in storage.entries("f")] == [("f/k", 3)]

    @pytest.mark.parametrize("if_absent", [False, True])
    def test_a_put_in_flight_is_invisible(self, storage: Storage, if_absent: bool) -> None:
        seen = []

        def chunks() -> Iterator[bytes]:
            for part in (b"half", b"and half"):
                yield part
                seen.append((storage.entries("f"), storage.tidy("f")))
                with pytest.raises(KeyMissing):
                    storage.read("f/k")
                storage.put("g/other", [part])

        storage.put("f/k", chunks(), if_absent=if_absent)
        assert seen == [([], 0)] * 2
        assert storage.read("f/k") == b"halfand half"

    def test_readers_never_see_a_mixture(self, storage: Storage) -> None:
        values = [bytes([i]) * (1000 + 7000 * (i % 5)) for i in range(60)]
        storage.put("f/k", [values[0]])
        storage.put("f/other", [b"1"])
        stop = threading.Event()

        def write() -> int:
            try:
                for value in values:
                    storage.put("f/k", [value[:500], value[500:]])
            finally:
                stop.set()
            return 0

        def read() -> int:
            turns = 0
            while not stop.is_set() or not turns:
                assert storage.read("f/k") in values
                sizes = {entry.key: entry.size for entry in storage.entries("f")}
                assert sizes.keys() == {"f/k", "f/other"}
                assert sizes["f/k"] in {len(value) for value in values}
                turns += 1
            return turns

        assert all(turns > 0 for turns in _together([write, read, read, read])[1:])
        assert storage.read("f/k") == values[-1]

    def test_tidy_keeps_everything_that_was_put(self, storage: Storage) -> None:
        keys = ["top", "f/k", "f/tmp", "f/g/k", "f/-tmp-1"]
        for key in keys:
            storage.put(key, [key.encode()])
        assert [storage.tidy(folder) for folder in ("", "f", "f/g", "absent")] == [0] * 4
        assert all(storage.read(key) == key.encode() for key in keys)
        assert [entry.key for entry in storage.entries("f")] == ["f/-tmp-1", "f/k", "f/tmp"]


def _create(storage: Storage, key: str, start: threading.Barrier, writer: int) -> bytes | None:
    """What the writer has put under the key, or None where another one was first."""
    data = bytes([writer]) * 1000
    start.wait()
    try:
        storage.put(key, [data], if_absent=True)
    except KeyExists:
        return None
    return data


def _failing() -> Iterator[bytes]:
    yield b"some"
    yield b"bytes" * 1000
    raise ZeroDivisionError


def _together(calls: Sequence[Callable[[], _T]]) -> list[_T]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
