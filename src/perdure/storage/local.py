"""Keep bytes in files below one directory, so that power loss takes nothing that was acknowledged."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from perdure.errors import KeyExists, KeyMissing, StorageError, StorageFull
from perdure.storage import process
from perdure.storage.contract import Buffer, Entry, Traits
from perdure.storage.keys import check_folder, check_key, is_segment

_TEMPORARY = ".tmp-"
_FOREIGN_LITTER_SECONDS = 7 * 86400.0
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW
_HINTS = {
    errno.ENOSPC: "free some space or choose another directory; older checkpoints are untouched",
    errno.EDQUOT: "free some of your quota or choose another directory; older checkpoints are untouched",
    errno.EACCES: "check the owner and the permissions of the directory",
    errno.EPERM: "check the permissions, and that the file system has hard links",
    errno.EROFS: "the file system is mounted read-only",
    errno.EIO: "the disk or the network under it reports an error; see the kernel's log",
    errno.ELOOP: "a symbolic link stands where perdure keeps its own file; move it away",
    errno.ENOTDIR: "a file or link stands where perdure needs a directory; choose another place, or move it away",
}


class LocalStorage:
    """A directory on a POSIX file system.

    Every path below the root is opened component by component without following links, so that a planted link
    or device cannot lead outside. Files have mode 0600, directories 0700. `disk` holds the system calls; the
    tests put one there that fails, crashes, or loses what was not synced.
    """

    traits = Traits(atomic_create=True, durable=True)

    def __init__(self, root: str | os.PathLike[str], *, disk: Any = os) -> None:
        self.root = Path(os.path.abspath(os.fspath(root)))
        self.where = str(self.root)
        self._disk = disk
        self._synced: set[str] = set()

    def __repr__(self) -> str:
        return f"LocalStorage({self.where!r})"

    def put(self, key: str, chunks: Iterable[Buffer], *, if_absent: bool = False) -> int:
        *folder, name = check_key(key)
        disk = self._disk
        with self._translated("write", key), self._directory(folder, create=True) as directory:
            temporary = f"{_TEMPORARY}{process.current().tag}-{secrets.token_hex(6)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
            file = disk.open(temporary, flags, 0o600, dir_fd=directory)
            try:
                try:
                    written = sum(self._write(file, chunk) for chunk in chunks)
                    disk.fsync(file)
                    if if_absent:
                        self._link(file, temporary, name, directory, key)
                finally:
                    self._close(file)
                if not if_absent:
                    disk.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(OSError):
                    disk.unlink(temporary, dir_fd=directory)
                raise
            try:
                self._sync_directory(directory)
            except OSError:
                if if_absent:
                    # Not acknowledged, so better not there: a name that only the cache knows must not win.
                    with suppress(OSError):
                        disk.unlink(name, dir_fd=directory)
                raise
            finally:
                if if_absent:
                    with suppress(OSError):
                        disk.unlink(temporary, dir_fd=directory)
        return written

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        with self._opened(key) as (file, size):
            wanted = size - start if length is None else min(length, size - start)
            out = bytearray(max(wanted, 0))
            got = self._fill(file, start, memoryview(out))
        return bytes(out[:got])

    def read_into(self, key: str, start: int, out: memoryview) -> int:
        with self._opened(key) as (file, _):
            return self._fill(file, start, out)

    def entries(self, folder: str) -> list[Entry]:
        prefix = f"{folder}/" if folder else ""
        return sorted(
            (
                Entry(prefix + name, status.st_size, status.st_mtime)
                for name, status in self._scan(folder)
                if is_segment(name) and stat.S_ISREG(status.st_mode)
            ),
            key=lambda entry: entry.key,
        )

    def folders(self, folder: str) -> list[str]:
        return sorted(
            name for name, status in self._scan(folder) if is_segment(name) and stat.S_ISDIR(status.st_mode)
        )

    def delete(self, key: str) -> None:
        *folder, name = check_key(key)
        with (
            suppress(KeyMissing),
            self._translated("delete", key),
            self._directory(folder, create=False) as directory,
        ):
            with suppress(FileNotFoundError):
                self._disk.unlink(name, dir_fd=directory)
            # Also when it was gone: whoever removed it may have died before syncing that.
            self._sync_directory(directory)

    def tidy(self, folder: str) -> int:
        found = list(self._scan(folder))
        newest = max((status.st_mtime for _, status in found), default=0.0)
        litter = [
            name
            for name, status in found
            if name.startswith(_TEMPORARY) and self._is_litter(name, newest - status.st_mtime)
        ]
        if litter:
            with self._translated("tidy", folder), self._directory(check_folder(folder), create=False) as directory:
                for name in litter:
                    with suppress(FileNotFoundError):
                        self._disk.unlink(name, dir_fd=directory)
        return len(litter)

    @staticmethod
    def _is_litter(name: str, age: float) -> bool:
        tag = name.removeprefix(_TEMPORARY).rpartition("-")[0]
        # Age is by the file system's own clock, against the newest file beside it.
        return process.tag_is_dead(tag) or age > _FOREIGN_LITTER_SECONDS

    def _link(self, file: int, temporary: str, name: str, directory: int, key: str) -> None:
        try:
            self._disk.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            # On network file systems a repeated request finds the link that its first try has made.
            if self._disk.fstat(file).st_nlink < 2:
                # Whoever put it may have died before syncing it, and our caller is going to rely on it.
                self._sync_directory(directory)
                raise KeyExists(f"{key} exists already in {self.where}") from None

    def _write(self, file: int, chunk: Buffer) -> int:
        view = memoryview(chunk)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        done = 0
        while done < len(view):
            count = self._disk.write(file, view[done:])
            if count <= 0:
                raise OSError(errno.EIO, "write made no progress")
            done += count
        return done

    def _fill(self, file: int, start: int, out: memoryview) -> int:
        done = 0
        while done < len(out):
            count = self._disk.preadv(file, [out[done:]], start + done)
            if count == 0:
                break
            done += count
        return done

    def _scan(self, folder: str) -> list[tuple[str, os.stat_result]]:
        found = []
        try:
            with (
                self._translated("list", folder),
                self._directory(check_folder(folder), create=False) as directory,
            ):
                for name in self._disk.listdir(directory):
                    # A file may vanish between listing and looking: a retention run removed it.
                    with suppress(FileNotFoundError):
                        found.append((name, self._disk.stat(name, dir_fd=directory, follow_symlinks=False)))
        except KeyMissing:
            return []
        return found

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, int]]:
        """A regular file, open for reading, with its size."""
        *folder, name = check_key(key)
        disk = self._disk
        with self._translated("read", key), self._directory(folder, create=False) as directory:
            # Without O_NONBLOCK a FIFO in place of the file would block for ever.
            file = disk.open(name, os.O_RDONLY | os.O_NONBLOCK | _OPEN, dir_fd=directory)
            try:
                status = disk.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    raise StorageError(f"{key} in {self.where} is not a regular file", hint="remove it")
                yield file, status.st_size
            finally:
                self._close(file)

    @contextmanager
    def _directory(self, segments: list[str], *, create: bool) -> Iterator[int]:
        """A descriptor of the folder; with `create`, made where missing, and durable."""
        disk = self._disk
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if create:
            self._make_root()
        current = disk.open(self.where, flags)
        try:
            path = ""
            for segment in segments:
                path = f"{path}/{segment}"
                if create:
                    made = self._mkdir(segment, current)
                    if made or path not in self._synced:
                        # Whoever made it may not have synced it yet, and we are about to rely on it.
                        self._sync_directory(current)
                        self._synced.add(path)
                child = disk.open(segment, flags | os.O_NOFOLLOW, dir_fd=current)
                self._close(current)
                current = child
            yield current
        finally:
            self._close(current)

    def _make_root(self) -> None:
        disk = self._disk
        if "" in self._synced and disk.access(self.where, os.F_OK):
            return
        missing = list(takewhile(lambda path: not disk.access(str(path), os.F_OK), [self.root, *self.root.parents]))
        for path in reversed(missing):
            with suppress(FileExistsError):
                disk.mkdir(str(path), 0o700)
        device = disk.stat(self.where).st_dev
        # Up to the mount point, and not only what was missing: whoever made it may have died before syncing it.
        for depth, path in enumerate(self.root.parents):
            try:
                parent = disk.open(str(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except PermissionError:
                if depth < len(missing):
                    raise
                break  # in a closed directory, so it is not ours to make durable
            try:
                if disk.fstat(parent).st_dev != device:
                    break
                self._sync_directory(parent)
            finally:
                self._close(parent)
        self._synced.add("")

    def _mkdir(self, segment: str, parent: int) -> bool:
        try:
            self._disk.stat(segment, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            with suppress(FileExistsError):
                self._disk.mkdir(segment, 0o700, dir_fd=parent)
            return True
        return False

    def _close(self, file: int) -> None:
        # What matters was synced before, and the descriptor is gone whatever close says.
        with suppress(OSError):
            self._disk.close(file)

    def _sync_directory(self, directory: int) -> None:
        try:
            self._disk.fsync(directory)
        except OSError as error:
            # Some network file systems have no fsync for directories; there a rename is durable by itself.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise

    @contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        """Turn the errors of the operating system into ours, at the one place where they enter."""
        try:
            yield
        except FileNotFoundError as error:
            if verb == "write":
                raise StorageError(
                    f"cannot write {key!r}: {self.where} was removed meanwhile", hint="try again"
                ) from error
            raise KeyMissing(f"{key} is not in {self.where}") from error
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = error.strerror or str(error)
            raise (StorageFull if full else StorageError)(
                f"cannot {verb} {key!r} in {self.where}: {reason}",
                hint=_HINTS.get(error.errno or 0, ""),
            ) from error
