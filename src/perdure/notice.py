"""Signals become one flag, which the job reads at its next safe point."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_AGAIN_SECONDS = 2.0


class Notice:
    """The wish that this process stop soon: what asked for it, and when.

    The handler only sets the flag. A second SIGTERM changes nothing; a second SIGINT within two seconds raises
    KeyboardInterrupt, as a person at the terminal expects. A forked child behaves as if nothing were installed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pid = os.getpid()
        self._depth = 0
        self._before: dict[int, Any] = {}
        self._last_interrupt: float | None = None
        self.signal: int | None = None
        self.since: float | None = None

    def __bool__(self) -> bool:
        return self.since is not None and self._pid == os.getpid()

    def give(self, number: int | None = None) -> None:
        """Ask to stop; the first wish counts."""
        if self.since is None:
            self.signal, self.since = number, self._clock()

    def clear(self) -> None:
        """Forget the wish: it has been honoured."""
        self.signal = self.since = self._last_interrupt = None

    @property
    def words(self) -> str:
        """What asked, for messages."""
        return "a request" if self.signal is None else signal.Signals(self.signal).name

    @contextmanager
    def listening(self, signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)) -> Iterator[None]:
        """Listen inside the block, nested or not; elsewhere than in the main thread this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        if self._pid != os.getpid():
            # A forked child listens for itself; whom its parent's handlers had replaced still counts.
            self._pid, self._depth = os.getpid(), 0
            self.clear()
        if self._depth == 0:
            for number in signals:
                before = signal.signal(number, self._on_signal)
                if before != self._on_signal:
                    self._before[number] = before
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                for number, handler in self._before.items():
                    # None stands for a handler that was not installed from Python and cannot be put back.
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)
                self.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self._as_before(number, frame)
            return
        if number == signal.SIGINT:
            now = self._clock()
            if self._last_interrupt is not None and now - self._last_interrupt <= _AGAIN_SECONDS:
                raise KeyboardInterrupt
            self._last_interrupt = now
        self.give(number)
        before = self._before.get(number)
        if callable(before) and before is not signal.default_int_handler:
            # One that would exit (Ray's does) wants what we want: to stop, and we do so at the next safe point.
            with suppress(SystemExit):
                before(number, frame)

    def _as_before(self, number: int, frame: FrameType | None) -> None:
        """In a forked child: what would have happened without us."""
        before = self._before.get(number)
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


NOTICE = Notice()
"""The one of this process: signals come to a process, not to a run."""
