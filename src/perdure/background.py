"""Finish work behind the job's back, one piece at a time, and lose none of its errors."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Promise(Generic[T]):
    """A piece of work that will be done."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future
        self.told = False

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> T:
        """The result, once there; raises what the work raised, TimeoutError after `timeout` seconds."""
        try:
            return self._future.result(timeout)
        finally:
            self.told = self.told or self._future.done()


class Background:
    """One thread that does one piece of work at a time; the interpreter waits for it before it ends."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._last: Promise[object] | None = None
        self._pid = os.getpid()

    def start(self, work: Callable[[], T]) -> Promise[T]:
        """Begin a piece of work; `drain` must have been called before."""
        self._leave_parent()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="perdure-save")
        promise: Promise[T] = Promise(self._executor.submit(work))
        self._last = promise  # type: ignore[assignment]  # a promise of anything is one of an object
        return promise

    def drain(self) -> None:
        """Wait for the work under way; raises its error unless somebody was told already."""
        self._leave_parent()
        last, self._last = self._last, None
        if last is not None and not (last.done and last.told):
            last.wait()

    def _leave_parent(self) -> None:
        """In a forked child: its parent's thread is not here, and would never finish anything."""
        if self._pid != os.getpid():
            self._pid, self._executor, self._last = os.getpid(), None, None
