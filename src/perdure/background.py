"""Finish work behind the job's back, one piece at a time, and lose none of its errors."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_number = count()
_untold: dict[tuple[int, int], str] = {}
"""Errors that nobody was told of yet, by process and piece of work: only words, which keep no store alive."""


class Promise(Generic[T]):
    """A piece of work that will be done."""

    def __init__(self) -> None:
        self._future: Future[T] = Future()
        self._key = (os.getpid(), next(_number))
        self.told = False

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._future.done()

    def wait(self, timeout: float | None = None) -> T:
        """The result, once there; raises what the work raised, TimeoutError after `timeout` seconds."""
        wait([self._future], timeout)
        if not self._future.done():
            raise TimeoutError(f"the work is not done after {timeout} seconds")
        self.told = True
        _untold.pop(self._key, None)
        return self._future.result()

    def settle(self) -> None:
        """Wait until it has ended; its error stays for whoever asks with `wait`."""
        wait([self._future])

    def keep(self, work: Callable[[], T]) -> None:
        """Do the work now, in this thread."""
        try:
            result = work()
        except BaseException as error:
            _untold[self._key] = str(error) or repr(error)
            self._future.set_exception(error)
            if not isinstance(error, Exception):
                raise  # an interrupt is for this thread as well
        else:
            self._future.set_result(result)


class Background:
    """One thread that does one piece of work at a time; the interpreter waits for it before it ends.

    Not for use after a fork: the thread stays with the parent.
    """

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[Promise[Any]] = deque()
        self._thread: int | None = None

    @property
    def is_here(self) -> bool:
        """Whether the caller is called by the work itself: it must not wait for that to end."""
        return self._thread == threading.get_ident()

    def start(self, work: Callable[[], T]) -> Promise[T]:
        """Begin a piece of work; `drain` must have been called before."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="perdure-save")
        promise: Promise[T] = Promise()
        self._executor.submit(self._do, promise, work)
        self._pending.append(promise)
        return promise

    def drain(self) -> None:
        """Wait for the work under way; raises its error unless somebody was told already."""
        while self._pending:
            promise = self._pending[0]
            promise.settle()  # an interrupt leaves it pending
            self._pending.popleft()
            if not promise.told:
                promise.wait()

    def settle(self) -> None:
        """Wait for the work under way; its error stays for the next `drain`."""
        for promise in tuple(self._pending):
            promise.settle()

    def _do(self, promise: Promise[T], work: Callable[[], T]) -> None:
        self._thread = threading.get_ident()
        try:
            promise.keep(work)
        finally:
            self._thread = None


@atexit.register
def _tell_untold() -> None:
    # To standard error, like an uncaught exception: nobody is left to raise it to.
    for (pid, _), words in sorted(_untold.items()):
        if pid == os.getpid() and sys.stderr is not None:
            sys.stderr.write(f"perdure: the last save in the background failed: {words}\n")
