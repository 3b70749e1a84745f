"""Disks on which calls fail, processes die and power is lost, on demand: for `LocalStorage(root, disk=...)`."""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from typing import Any, NoReturn, TypeVar, cast

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Crash(BaseException):
    """The process is dead: raised by one call and by every later one, so that no handler cleans anything up."""


class FaultyDisk:
    """A disk whose n-th call goes wrong; calls are counted from 1, and 0 means never.

    fail_at: this call, and only this one, raises OSError(`error`) without having done anything.
    crash_at: this call and all later ones raise Crash; the descriptors are closed, as the kernel would.
    short_at: this call, where it is a write or a read, moves only half of what it was asked to.

    `calls` has the names of all calls so far, `descriptors` what is open. For use by one thread.
    """

    def __init__(
        self,
        disk: Any = os,
        *,
        fail_at: int = 0,
        error: int = errno.EIO,
        crash_at: int = 0,
        short_at: int = 0,
    ) -> None:
        self.calls: list[str] = []
        self.descriptors: set[int] = set()
        self._disk = disk
        self._fail_at = fail_at
        self._error = error
        self._crash_at = crash_at
        self._short_at = short_at

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._disk, name)
        return partial(self._call, name, value) if callable(value) else value

    def _call(self, name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self.calls.append(name)
        number = len(self.calls)
        if 0 < self._crash_at <= number:
            self._die()
        if name == "close":
            # As on Linux: the descriptor is gone, whatever close has to say about it.
            self.descriptors.discard(args[0])
            call(*args)
        if number == self._fail_at:
            if name == "access":
                return False  # access has no errors: what it cannot reach is not there
            raise OSError(self._error, os.strerror(self._error))
        if name == "close":
            return None
        if number == self._short_at and name in ("write", "preadv"):
            args = _halved(name, args)
        result = call(*args, **options)
        if name == "open":
            self.descriptors.add(result)
        return result

    def _die(self) -> NoReturn:
        while self.descriptors:
            self._disk.close(self.descriptors.pop())
        raise Crash(f"dead since call {self._crash_at}, {self.calls[self._crash_at - 1]}")


def _halved(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if name == "write":
        file, data = args
        return (file, data[: max(1, len(data) // 2)])
    file, [out], start = args
    return (file, [out[: max(1, len(out) // 2)]], start)


@dataclass(eq=False, slots=True)
class _Node:
    """A file or a directory: what is visible now beside what is durable."""

    number: int
    directory: bool
    modified: int
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    entries: dict[str, _Node] = field(default_factory=dict)
    durable: dict[str, _Node] = field(default_factory=dict)


@dataclass(slots=True)
class _Open:
    node: _Node
    position: int = 0


def _alone(method: _Method) -> _Method:
    """Calls on one disk happen one after another, as the kernel's locks see to it."""

    @wraps(method)
    def locked(self: PowerLossDisk, *args: Any, **options: Any) -> Any:
        with self._lock:
            return method(self, *args, **options)

    return cast(_Method, locked)


class PowerLossDisk:
    """A file system in memory that keeps what is durable apart from what is visible.

    The content of a file is durable after fsync of the file. An entry of a directory (made, linked, renamed or
    removed) is durable after fsync of that directory, and not before: not by fsync of the file either, although
    some file systems are so kind. Has the calls of `os` that LocalStorage uses, for regular files and
    directories; times come from a counter.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._clock = itertools.count(1_700_000_000)
        self._descriptors = itertools.count(1000)
        self._files: dict[int, _Open] = {}
        self._root = self._make(directory=True)

    def copy(self) -> PowerLossDisk:
        """Another disk with the same content, visible and durable; nothing is open on it."""
        other = PowerLossDisk()
        with self._lock:
            other._root = _copy(self._root, {})
            other._numbers = itertools.count(next(self._numbers))
            other._clock = itertools.count(next(self._clock))
        return other

    def lose_power(self, keep: random.Random | None = None) -> None:
        """Go back to what is durable; every descriptor dies.

        Without `keep`, all that was not synced is lost. With it, chance decides: real disks write back in any
        order, so each change of an entry is kept or lost by itself (a rename may have happened by halves), and
        content that was not synced is there, cut, zeroed in places, or lost.
        """
        with self._lock:
            self._files.clear()
            for node in self._everything():
                if node.directory:
                    node.durable = _survivors(node, keep)
                    node.entries = dict(node.durable)
                elif bytes(node.data) != node.synced:
                    node.synced = _remains(node, keep)
                    node.data = bytearray(node.synced)

    @_alone
    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        parent, name, node = self._look(path, dir_fd)
        if node is None:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT, path)
            node = parent.entries[name] = self._make(directory=False)
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST, path)
        writing = flags & (os.O_WRONLY | os.O_RDWR)
        if node.directory and writing:
            raise _error(errno.EISDIR, path)
        if flags & os.O_DIRECTORY and not node.directory:
            raise _error(errno.ENOTDIR, path)
        if flags & os.O_TRUNC and writing:
            node.data.clear()
        descriptor = next(self._descriptors)
        self._files[descriptor] = _Open(node)
        return descriptor

    @_alone
    def close(self, fd: int) -> None:
        self._opened(fd)
        del self._files[fd]

    @_alone
    def write(self, fd: int, data: bytes | memoryview) -> int:
        file = self._opened(fd)
        end = file.position + len(data)
        file.node.data[file.position : end] = data
        file.node.modified = next(self._clock)
        file.position = end
        return len(data)

    @_alone
    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        data = self._opened(fd).node.data
        done = 0
        for buffer in buffers:
            part = data[offset + done : offset + done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
        return done

    @_alone
    def fsync(self, fd: int) -> None:
        node = self._opened(fd).node
        if node.directory:
            node.durable = dict(node.entries)
        else:
            node.synced = bytes(node.data)

    @_alone
    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        parent, name, node = self._look(path, dir_fd)
        if node is not None:
            raise _error(errno.EEXIST, path)
        parent.entries[name] = self._make(directory=True)

    @_alone
    def link(
        self,
        src: str,
        dst: str,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        source = self._file(src, src_dir_fd)[2]
        parent, name, node = self._look(dst, dst_dir_fd)
        if node is not None:
            raise _error(errno.EEXIST, dst)
        parent.entries[name] = source

    @_alone
    def rename(self, src: str, dst: str, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        old_parent, old_name, source = self._file(src, src_dir_fd)
        parent, name, node = self._look(dst, dst_dir_fd)
        if node is source:
            return  # POSIX: two names of one file, both stay
        if node is not None and node.directory:
            raise _error(errno.EISDIR, dst)
        parent.entries[name] = source
        del old_parent.entries[old_name]

    @_alone
    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        parent, name, _ = self._file(path, dir_fd)
        del parent.entries[name]

    @_alone
    def listdir(self, path: int | str) -> list[str]:
        node = self._opened(path).node if isinstance(path, int) else self._look(path, None)[2]
        if node is None or not node.directory:
            raise _error(errno.ENOENT if node is None else errno.ENOTDIR, str(path))
        return list(node.entries)

    @_alone
    def stat(self, path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        node = self._look(path, dir_fd)[2]
        if node is None:
            raise _error(errno.ENOENT, path)
        return self._status(node)

    @_alone
    def fstat(self, fd: int) -> os.stat_result:
        return self._status(self._opened(fd).node)

    @_alone
    def access(self, path: str, mode: int) -> bool:
        try:
            return self._look(path, None)[2] is not None
        except OSError:
            return False

    def _make(self, *, directory: bool) -> _Node:
        return _Node(next(self._numbers), directory, next(self._clock))

    def _opened(self, fd: int) -> _Open:
        try:
            return self._files[fd]
        except KeyError:
            raise _error(errno.EBADF, str(fd)) from None

    def _look(self, path: str, dir_fd: int | None) -> tuple[_Node, str, _Node | None]:
        """The directory that a path ends in, the last name, and what is there."""
        here = self._root if path.startswith("/") or dir_fd is None else self._opened(dir_fd).node
        *folders, name = [part for part in path.split("/") if part] or [""]
        for folder in folders:
            if folder not in here.entries:
                raise _error(errno.ENOENT, path)
            here = here.entries[folder]
        if not here.directory:
            raise _error(errno.ENOTDIR, path)
        return here, name, here.entries.get(name) if name else here

    def _file(self, path: str, dir_fd: int | None) -> tuple[_Node, str, _Node]:
        parent, name, node = self._look(path, dir_fd)
        if node is None:
            raise _error(errno.ENOENT, path)
        if node.directory:
            raise _error(errno.EISDIR, path)
        return parent, name, node

    def _status(self, node: _Node) -> os.stat_result:
        if node.directory:
            kind, links = stat.S_IFDIR | 0o700, 2
        else:
            kind = stat.S_IFREG | 0o600
            links = sum(child is node for each in self._everything() for child in each.entries.values())
        times = (node.modified,) * 3
        return os.stat_result((kind, node.number, 1, links, 0, 0, len(node.data), *times))

    def _everything(self) -> Iterator[_Node]:
        """Every node that can be seen now or after a loss of power, once, always in the same order."""
        seen = {self._root}
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            yield node
            for child in [*node.entries.values(), *node.durable.values()]:
                if child not in seen:
                    seen.add(child)
                    waiting.append(child)


def _copy(node: _Node, done: dict[_Node, _Node]) -> _Node:
    if node not in done:
        new = done[node] = replace(node, data=bytearray(node.data), entries={}, durable={})
        new.entries.update((name, _copy(child, done)) for name, child in node.entries.items())
        new.durable.update((name, _copy(child, done)) for name, child in node.durable.items())
    return done[node]


def _survivors(node: _Node, keep: random.Random | None) -> dict[str, _Node]:
    entries = dict(node.durable)
    if keep is None:
        return entries
    for name in {**node.durable, **node.entries}:
        child = node.entries.get(name)
        if child is node.durable.get(name) or keep.random() < 0.5:
            continue
        if child is None:
            del entries[name]
        else:
            entries[name] = child
    return entries


def _remains(node: _Node, keep: random.Random | None) -> bytes:
    if keep is None:
        return node.synced
    data = bytes(node.data)
    place = keep.randrange(len(data) + 1)
    end = keep.randrange(place, len(data) + 1)
    zeroed = data[:place] + bytes(end - place) + data[end:]
    return keep.choice([data, data[:place], zeroed, node.synced])


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)
