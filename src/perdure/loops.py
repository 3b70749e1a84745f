"""Where a job stands in its loops, and how each loop goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from perdure.errors import MismatchError
from perdure.state.rng import Generators
from perdure.state.tree import is_stateful

T = TypeVar("T")


@dataclass(slots=True)
class Frame:
    """One active loop: items done, loops begun inside the current item, and what its source needs to go on."""

    position: int = 0
    children: int = 0
    start: Any = None
    source: Any = None
    total: int | None = None

    def save(self) -> list[Any]:
        state = self.source.state_dict() if is_stateful(self.source) else None
        return [self.position, self.children, self.start, state]


class Loops:
    """The stack of active loops of one run.

    A loop is known by its place: the how-manieth it is inside the current item of the loop around it. That is
    enough to find, in a process that starts again, which loops were complete and where the others stood.
    """

    def __init__(self, at_item: Callable[[], None]) -> None:
        self._frames = [Frame()]
        self._resume: list[list[Any]] | None = None
        self._generators: Any = None
        self._at_item = at_item

    def state_dict(self) -> dict[str, Any]:
        return {"frames": [frame.save() for frame in self._frames], "generators": Generators().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resume = state["frames"]
        self._generators = state["generators"]
        if len(self._resume) == 1:
            self._arrive()

    def done(self) -> None:
        """The current item of the innermost loop is done."""
        frame = self._frames[-1]
        if len(self._frames) > 1:
            frame.position += 1
            frame.children = 0

    @property
    def depth(self) -> int:
        return len(self._frames) - 1

    @property
    def places(self) -> list[tuple[int, int | None]]:
        """Items done and items in all, None where nobody can tell, of each active loop, outermost first."""
        return [(frame.position, frame.total) for frame in self._frames[1:]]

    def count(self, items: range) -> Iterator[int]:
        """Go through a range, from the first item that is not done."""
        entered = self._enter(Frame(total=len(items)))
        if entered is None:
            return
        frame, _ = entered
        try:
            self._arrive_if_deepest()
            for index in range(frame.position, len(items)):
                self._item(frame, index)
                yield items[index]
                self._resume = None
            frame.position = len(items)
        finally:
            self._leave(frame)

    def each(self, source: Iterable[T]) -> Iterator[T]:
        """Go through any iterable, from the first item that is not done.

        What hands out its own state is set to it. Anything else is iterated from its start, with the random
        generators as they were then, so that the same order comes out; what is done is passed over.
        """
        entered = self._enter(Frame(source=source, start=Generators().state_dict(), total=_length(source)))
        if entered is None:
            return
        frame, saved = entered
        try:
            iterator = self._advance(source, frame, saved)
            self._arrive_if_deepest()
            for index, item in enumerate(iterator, frame.position):
                self._item(frame, index)
                yield item
                self._resume = None
                frame.position = index + 1
        finally:
            self._leave(frame)

    def _advance(self, source: Iterable[T], frame: Frame, saved: list[Any] | None) -> Iterator[T]:
        if saved is None:
            return iter(source)
        frame.position, _, frame.start, state = saved
        if state is not None:
            source.load_state_dict(state)  # type: ignore[attr-defined]
            return iter(source)
        Generators().load_state_dict(frame.start)
        iterator = iter(source)
        for index in range(frame.position):
            try:
                next(iterator)
            except StopIteration:
                raise MismatchError(
                    f"the data gave {index} items, and {frame.position} were done before the restart",
                    hint="give the run the data that it was started with, or start a new run",
                ) from None
        return iterator

    def _enter(self, frame: Frame) -> tuple[Frame, list[Any] | None] | None:
        """Push a frame, with what was saved of it; None when this loop was complete."""
        depth = len(self._frames)
        parent = self._frames[-1]
        ordinal = parent.children
        parent.children += 1
        saved = None
        if self._resume is not None:
            begun = self._resume[depth - 1][1]
            active = len(self._resume) > depth
            if ordinal < begun - active:
                return None
            if ordinal == begun - 1:
                saved = self._resume[depth]
                frame.position = saved[0]
            else:
                self._resume = None
        self._frames.append(frame)
        return frame, saved

    def _leave(self, frame: Frame) -> None:
        # A loop left by `break` or an exception takes the unfinished ones inside it along.
        if frame in self._frames:
            del self._frames[self._frames.index(frame) :]

    def _item(self, frame: Frame, index: int) -> None:
        frame.position, frame.children = index, 0
        self._at_item()

    def _arrive_if_deepest(self) -> None:
        if self._resume is not None and len(self._resume) == len(self._frames):
            self._arrive()

    def _arrive(self) -> None:
        """The place of the checkpoint is reached: from here on random numbers go on as they did there."""
        if self._generators is not None:
            Generators().load_state_dict(self._generators)
            self._generators = None


def _length(source: Iterable[Any]) -> int | None:
    """How many items a source gives, where it says so; loaders of streams have a `__len__` that raises."""
    try:
        return len(source)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
