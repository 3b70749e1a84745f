"""Files of every released format stay readable, and a newer format is said to be newer, not damaged."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pytest

from perdure.errors import DamagedError, FormatError
from perdure.events import listening
from perdure.store import CheckpointStore

HERE = Path(__file__).parent


def test_format_1(tmp_path: Path) -> None:
    """Written once by `make_format_1.py`; never written again."""
    shutil.copytree(HERE / "format-1", tmp_path / "store")
    store = CheckpointStore(tmp_path / "store")
    assert store.names() == ["big", "packed", "small/ünïcode"]
    small = store.load("small/ünïcode")
    assert small["when"] == dt.datetime(2026, 11, 22, 12, 30, tzinfo=dt.UTC)
    assert small["nested"] == {1: (None, True, b"\x00\xff"), "nan": [float("inf")]}
    assert small["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    big = store.load("big")
    assert np.array_equal(big["table"], np.arange(200_000, dtype=">f8"))
    noise = np.random.default_rng(0).integers(0, 256, 1_100_000, dtype="u1")
    assert np.array_equal(store.load("packed")["noise"], noise)
    assert list((tmp_path / "store" / "checkpoints" / "packed" / "packs").iterdir())
    assert [one.step for one in store.list("big")] == [2, 1]
    assert store.verify("big", 1).metadata == {"rows": 200_000}


@pytest.mark.parametrize(
    "header",
    [
        b'{"perdure":2,"body":3,"payload":0,"digest":"x"}\nabc\n',
        b'{"perdure":7,"tables":[]}\n',
        b'{"perdure":10}\n{}',
    ],
)
def test_a_newer_format_is_not_damage(tmp_path: Path, header: bytes) -> None:
    store = CheckpointStore(tmp_path)
    store.save("k", 1)
    (tmp_path / "checkpoints" / "k" / "0000000002.manifest").write_bytes(header)
    for action in (lambda: store.load("k"), lambda: store.save("k", 2), lambda: store.verify("k", 2)):
        with pytest.raises(FormatError, match=r"0000000002\.manifest.*upgrade"):
            action()
    assert not list(tmp_path.rglob("*.bad"))
    assert store.load("k", version=1) == 1


def test_a_damaged_format_number_is_damage(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save("k", 1)
    path = tmp_path / "checkpoints" / "k" / "0000000001.manifest"
    path.write_bytes(path.read_bytes().replace(b'"perdure":1', b'"perdure":3', 1))
    seen: list[str] = []
    with listening(lambda event: seen.append(event.kind)), pytest.raises(DamagedError, match="claims format 3"):
        store.load("k")
    assert "restore.set-aside" in seen
