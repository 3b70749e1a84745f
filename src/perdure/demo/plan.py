"""What a demo is to do, and whom it tells how it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Plan:
    """`use` and `cache` are the digits, as `data.load` takes them; `targets` where to kill, in epochs."""

    use: str
    cache: Path
    epochs: int
    seed: int
    targets: list[float]

    @property
    def kills(self) -> int:
        return len(self.targets)


class Tell(Protocol):
    """Somebody who watches."""

    def begin(self, title: str, epochs: int) -> None:
        """A job of so many epochs begins."""
        ...

    def at(self, position: float) -> None:
        """The job is here, in epochs."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line happened."""
        ...

    def end(self) -> None:
        """The last job is over."""
        ...
