"""What happened, as data, handed to plain callables.

Silent by default: nothing is printed or logged unless somebody listens.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: a dotted `kind` such as `save.committed`, its facts, and when (Unix seconds)."""

    kind: str
    data: Mapping[str, Any]
    time: float = field(default_factory=time.time)


Listener = Callable[[Event], None]

_listeners: list[Listener] = []
_lock = threading.Lock()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` for every event from now on; the returned function ends it."""
    with _lock:
        _listeners.append(listener)

    def unsubscribe() -> None:
        with _lock:
            if listener in _listeners:
                _listeners.remove(listener)

    return unsubscribe


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` for every event inside the block."""
    unsubscribe = subscribe(listener)
    try:
        yield
    finally:
        unsubscribe()


def tell(kind: str, **data: Any) -> None:
    """Hand an event to all who listen. A listener that fails is warned of: a save is not undone by a progress bar."""
    if _listeners:
        event = Event(kind, data)
        for listener in tuple(_listeners):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - anything may come out of foreign code
                warnings.warn(f"a listener failed on {kind}: {error!r}", RuntimeWarning, stacklevel=3)
