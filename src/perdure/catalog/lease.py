"""One writer at a time: who holds a name, and how another may take it over."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from perdure.catalog.catalog import Catalog
from perdure.errors import BusyError, KeyExists, KeyMissing, StorageError
from perdure.events import tell
from perdure.storage import Storage
from perdure.storage.process import current, tag_is_dead


class Holder(msgspec.Struct, frozen=True):
    """What the lease file says; `beat` grows with every renewal, so that a watcher needs no common clock."""

    token: str
    tag: str
    who: str
    ttl: float
    beat: int


@dataclass(frozen=True, slots=True)
class Clock:
    """Monotonic time and waiting, in seconds; a test brings its own."""

    now: Callable[[], float] = time.monotonic
    wait: Callable[[float], None] = time.sleep


class Lease:
    """The right to write one name, renewed by a thread while held.

    The lease alone keeps nobody honest: a holder that slept past it finds out at its commit, because whoever
    took over has committed a fence under the version that the sleeper would use.
    """

    def __init__(self, catalog: Catalog, name: str, *, ttl: float = 60.0, clock: Clock | None = None) -> None:
        self.token = secrets.token_hex(16)
        self._name = name
        self._storage = catalog.storage
        self._key = _key(catalog, name)
        self._ttl = ttl
        self._clock = clock or Clock()
        self._beat = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, fence: Callable[[], None]) -> None:
        """Take the lease. `fence` commits a fence record, and raises FencedError when another one was faster.

        Raises BusyError, naming the holder, when it is alive; a holder that cannot be proved dead is watched
        for one of its own ttl first.
        """
        holder = self._read()
        if holder is None:
            try:
                self._storage.put(self._key, [self._content()], if_absent=True)
            except KeyExists:
                if self._read() is not None:
                    why = f"another process opened {self._name!r} at this moment"
                    raise BusyError(why, hint="try again") from None
                # A damaged file; should somebody live behind it after all, the fence settles it.
                fence()
                self._storage.put(self._key, [self._content()])
        else:
            self._wait_for_death(holder)
            fence()
            if (now := self._read()) != holder:
                # Another one took over between our look and our fence; whoever commits first has it.
                raise _busy(self._name, now or holder)
            tell("lease.taken-over", key=self._key, from_=holder.who)
            self._storage.put(self._key, [self._content()])
        self._thread = threading.Thread(target=self._renew, name="perdure-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; never raises, since the next holder can do without."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if self.is_held():
                self._storage.delete(self._key)
        except StorageError as error:
            tell("lease.not-released", key=self._key, why=str(error))

    def is_held(self) -> bool:
        """Whether the file still says so."""
        holder = self._read()
        return holder is not None and holder.token == self.token

    def _wait_for_death(self, holder: Holder) -> None:
        me = current()
        if tag_is_dead(holder.tag):
            return
        if holder.tag.startswith(f"{me.scope}-"):
            raise _busy(self._name, holder)
        tell("lease.waiting", who=holder.who, seconds=holder.ttl)
        deadline = self._clock.now() + holder.ttl
        while self._clock.now() < deadline:
            self._clock.wait(min(1.0, holder.ttl / 10))
            if (again := self._read()) != holder:
                raise _busy(self._name, again or holder)

    def _read(self) -> Holder | None:
        return read_holder(self._storage, self._key)

    def _content(self) -> bytes:
        me = current()
        return msgspec.json.encode(Holder(self.token, me.tag, str(me), self._ttl, self._beat))

    def _renew(self) -> None:
        while not self._stop.wait(self._ttl / 3):
            try:
                if not self.is_held():
                    tell("lease.lost", key=self._key)
                    return
                self._beat += 1
                self._storage.put(self._key, [self._content()])
            except StorageError as error:
                tell("lease.not-renewed", key=self._key, why=str(error))


def read_holder(storage: Storage, key: str) -> Holder | None:
    """Who holds a lease; None when nobody does. A file that makes no sense is nobody's."""
    try:
        return msgspec.json.decode(storage.read(key), type=Holder)
    except (KeyMissing, msgspec.DecodeError, UnicodeDecodeError):
        return None


def refuse_if_held(catalog: Catalog, name: str) -> None:
    """BusyError when a holder is alive, or may be."""
    holder = read_holder(catalog.storage, _key(catalog, name))
    if holder is not None and not tag_is_dead(holder.tag):
        raise _busy(name, holder)


def _key(catalog: Catalog, name: str) -> str:
    return f"{catalog.folder(name)}/lease"


def _busy(name: str, holder: Holder) -> BusyError:
    if holder.tag == current().tag:
        return BusyError(f"this process has {name!r} open already", hint="close it first, or use another name")
    return BusyError(f"{holder.who} is writing {name!r}", hint="wait for it or stop it, or use another name")
