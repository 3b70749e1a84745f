"""Where a job stands in its loops, and how each loop goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from perdure.errors import MismatchError
from perdure.state.rng import Generators
from perdure.state.tree import is_stateful

T = TypeVar("T")

_BEGUN, _ENDED = 4, 5  # places in what `Frame.save` returns
_UNKNOWN: dict[str, Any] = {}


@dataclass(slots=True, eq=False)  # the stack looks for this very frame, not for one at the same position
class Frame:
    """One active loop: items done, loops begun inside the current item, and what its source needs to go on.

    `begun` has the random generators as they were when the current item began, and `ended` as they were after
    each loop that ended inside it (with the items of that loop, None where it was left early): a process that
    starts again runs the code between the loops once more, and it must draw the same numbers.
    """

    position: int = 0
    children: int = 0
    start: Any = None
    source: Any = None
    total: int | None = None
    item: int = 0
    begun: Any = None
    ended: list[Any] = field(default_factory=list)
    exhausted: bool = False
    nests: bool = False

    def begin(self, item: int) -> None:
        """The next item begins."""
        # Asking all generators takes 0.1 ms: not for each item of a loop that has no loops inside.
        ask = self.begun is None or self.nests
        self.begun = Generators().state_dict() if ask else _UNKNOWN
        self.position = self.item = item
        self.children, self.ended = 0, []

    def save(self) -> list[Any]:
        state = self.source.state_dict() if is_stateful(self.source) else None
        own = [generator.get_state() for generator in _own_generators(self.source)]
        return [self.position, self.children, self.start, state, self.begun, self.ended, own]


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
        frames = [frame.save() for frame in self._frames]
        if len(frames) > 1:
            frames[-1][_BEGUN] = _UNKNOWN  # the innermost item is done: nothing of it runs again
        return {"frames": frames, "generators": Generators().state_dict()}

    def begin(self) -> None:
        """The run starts from its beginning."""
        self._frames[0].begin(0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resume = state["frames"]
        self._generators = state["generators"]
        root = self._frames[0]
        root.begun = self._resume[0][_BEGUN]
        if len(self._resume) == 1:
            self._arrive()
        else:
            Generators().load_state_dict(root.begun)

    def done(self) -> None:
        """The current item of the innermost loop is done; saying so twice does not make it two."""
        frame = self._frames[-1]
        if len(self._frames) > 1:
            frame.position = frame.item + 1
            frame.children, frame.ended = 0, []

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
            self._end(frame, len(items))
        finally:
            self._leave(frame)

    def each(self, source: Iterable[T]) -> Iterator[T]:
        """Go through any iterable, from the first item that is not done.

        What hands out its own state is set to it. Anything else is iterated from its start, with the random
        generators as they were then, so that the same order comes out; what is done is passed over.
        """
        own = [generator.get_state() for generator in _own_generators(source)]
        start = [Generators().state_dict(), own]
        entered = self._enter(Frame(source=source, start=start, total=_length(source)))
        if entered is None:
            return
        frame, saved = entered
        try:
            iterator = self._advance(source, frame, saved)
            self._arrive_if_deepest()
            index = frame.position
            for item in iterator:
                self._item(frame, index)
                yield item
                self._resume = None
                index += 1
            self._end(frame, index)
        finally:
            self._leave(frame)

    def _advance(self, source: Iterable[T], frame: Frame, saved: list[Any] | None) -> Iterator[T]:
        if saved is None:
            return iter(source)
        frame.position, _, frame.start, state, _, _, own = saved
        if state is not None:
            source.load_state_dict(state)  # type: ignore[attr-defined]
            return iter(source)
        Generators().load_state_dict(frame.start[0])
        _set_all(_own_generators(source), frame.start[1])
        iterator = iter(source)
        for index in range(frame.position):
            try:
                next(iterator)
            except StopIteration:
                raise MismatchError(
                    f"the data gave {index} items, and {frame.position} were done before the restart",
                    hint="give the run the data that it was started with, or start a new run",
                ) from None
        _set_all(_own_generators(source), own)
        return iterator

    def _enter(self, frame: Frame) -> tuple[Frame, list[Any] | None] | None:
        """Push a frame, with what was saved of it; None when this loop was complete."""
        depth = len(self._frames)
        parent = self._frames[-1]
        ordinal = parent.children
        parent.children += 1
        parent.nests = True
        saved = None
        if self._resume is not None:
            begun = self._resume[depth - 1][1]
            active = len(self._resume) > depth
            if ordinal < begun - active:
                return self._pass_over(frame, ordinal, ordinal == begun - 1)
            if ordinal == begun - 1:
                saved = self._resume[depth]
                frame.position = saved[0]
            else:
                self._resume = None
        self._frames.append(frame)
        return frame, saved

    def _pass_over(self, frame: Frame, ordinal: int, last: bool) -> tuple[Frame, None] | None:
        """A loop that was complete: nothing is left of it, unless it was the last one and has grown."""
        parent, depth = self._frames[-1], len(self._frames)
        resume = self._resume or []
        items, generators = resume[depth - 1][_ENDED][ordinal]
        if len(resume) > depth:
            Generators().load_state_dict(generators)
        elif last and frame.source is None and items is not None and items < (frame.total or 0):
            self._resume = None
            frame.position = items
            self._frames.append(frame)
            return frame, None
        parent.ended.append([items, generators])
        return None

    def _end(self, frame: Frame, items: int) -> None:
        """The loop came to its end; a loop left by `break` or an exception never comes here."""
        frame.position = items
        frame.exhausted = True

    def _leave(self, frame: Frame) -> None:
        # A loop left by `break` or an exception takes the unfinished ones inside it along.
        if frame in self._frames:
            depth = self._frames.index(frame)
            del self._frames[depth:]
            items = frame.position if frame.exhausted else None
            self._frames[-1].ended.append([items, Generators().state_dict()])

    def _item(self, frame: Frame, index: int) -> None:
        depth = self._frames.index(frame)
        del self._frames[depth + 1 :]  # what is still open of the item before
        if self._resume is not None and len(self._resume) > depth + 1:
            # An item that was under way: its first lines run again, with the numbers of the first time.
            Generators().load_state_dict(self._resume[depth][_BEGUN])
        frame.begin(index)
        self._at_item()

    def _arrive_if_deepest(self) -> None:
        if self._resume is not None and len(self._resume) == len(self._frames):
            self._arrive()

    def _arrive(self) -> None:
        """The place of the checkpoint is reached: from here on random numbers go on as they did there."""
        if self._generators is not None:
            Generators().load_state_dict(self._generators)
            self._generators = None


def _own_generators(source: Any) -> list[Any]:
    """The generators that a data loader draws its order from, where they are not the global ones."""
    holders = (source, getattr(source, "sampler", None), getattr(source, "batch_sampler", None))
    found = {id(own): own for own in (getattr(holder, "generator", None) for holder in holders)}
    return [own for own in found.values() if hasattr(own, "get_state") and hasattr(own, "set_state")]


def _set_all(generators: list[Any], states: list[Any]) -> None:
    for generator, state in zip(generators, states, strict=False):
        generator.set_state(state)


def _length(source: Iterable[Any]) -> int | None:
    """How many items a source gives, where it says so; loaders of streams have a `__len__` that raises."""
    try:
        return len(source)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
