"""A loop that goes on where it stopped."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from perdure import registry
from perdure.catalog import Checkpoint, Lease, Writer
from perdure.errors import CheckpointNotFound, PerdureError, SaveFailed, UsageError
from perdure.events import listening, tell
from perdure.loops import Loops
from perdure.notice import NOTICE
from perdure.policy import Decision, Observation, OverheadCap, Policy
from perdure.restore import Select
from perdure.state import Plan
from perdure.storage import Storage
from perdure.store import CheckpointStore, request

T = TypeVar("T")

CHECKPOINTED = 85
_DECISIONS_KEPT = 10_000
_SET_ASIDE = "restore.set-aside"


@dataclass(slots=True)
class Decided:
    """A decision as it was taken, with its inputs; a run of refusals is one record, the last, with a count."""

    seen: Observation
    decision: Decision
    count: int = 1


class Run:
    """Work that goes on where it stopped, whatever stopped it.

        with perdure.Run("mnist", {"model": model, "optimizer": optimizer}) as run:
            for epoch in run.range(10):
                loss = train_epoch(model, optimizer)
                run.step(loss=loss)

    On entry the newest whole checkpoint is restored into `state`, in place; `range` and `each` then begin with
    the first item that is not done. An item is done when `step` is called after it. Random generators of
    Python, NumPy and torch, and the position in all loops, are part of every checkpoint, so that a run killed
    anywhere ends like one never killed.

    `store` is an address or a CheckpointStore (default `./perdure-store`); `policy` decides when to save
    (default: as often as costs 2 % of the time); `keep` checkpoints are kept, where `store` is an address;
    `allow` names what may differ on restore and `trust` allows unsigned objects, both as in
    `CheckpointStore.load`; `progress=True` shows progress.

    Raises BusyError, naming the holder, when another process has the run open.
    """

    def __init__(
        self,
        name: str,
        state: Any = None,
        *,
        store: str | os.PathLike[str] | Storage | CheckpointStore = "./perdure-store",
        policy: Policy | None = None,
        keep: int | None = 3,
        allow: str | Collection[str] = (),
        trust: bool = False,
        progress: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.state = state
        self.store = store if isinstance(store, CheckpointStore) else CheckpointStore(store, keep=keep)
        if policy is not None and not isinstance(policy, Policy):
            raise UsageError(f"policy={policy!r} is no policy", hint="give perdure.EverySteps(100), or your own")
        self.policy: Policy = policy or OverheadCap()
        self.steps = 0
        self.checkpoint: Checkpoint | None = None
        self.resumed_from: Checkpoint | None = None
        self.decisions: deque[Decided] = deque(maxlen=_DECISIONS_KEPT)
        self._request = request(Plan.MISSING if state is None else state, (), allow, trust)
        self._progress = progress
        self._clock = clock
        self._loops = Loops(self._leave_early)
        self._stack = ExitStack()
        self._writer: Writer | None = None
        self._metrics: Mapping[str, Any] = {}
        self._ended = False
        self._saved_steps = 0
        self._saved_at = self._stepped_at = 0.0
        self._longest = 0.0
        self._items = self._resumed_steps = 0
        self._save_seconds: float | None = None

    def __enter__(self) -> Run:
        if self._writer is not None:
            raise UsageError(f"run {self.name!r} is open already", hint="open it once, or use another name")
        # What an earlier `with` of this object has left is in the store, or counts for nothing.
        self._loops, self._ended = Loops(self._leave_early), False
        self.steps = self._saved_steps = self._items = self._resumed_steps = 0
        with ExitStack() as stack:
            if self._progress:
                stack.enter_context(listening(registry.load("listener", "progress")()))
            self._writer = self.store.writer(self.name)
            stack.callback(self._close_writer)
            self._writer.hold(Lease(self.store.catalog, self.name))
            stack.enter_context(NOTICE.listening())
            self._resume(self._writer)
            self._stack = stack.pop_all()
        self._saved_at = self._stepped_at = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                if not self._ended:
                    self._ended = True
                    self._save_and_say("the end of the run", leaving=bool(NOTICE))
                tell("run.ended", name=self.name, steps=self.steps)
                if NOTICE:  # looked at again: it may have come while the end was saved
                    self._leave()
                if self._items and self.steps == self._resumed_steps:
                    warnings.warn(
                        f"run {self.name!r}: no step() was called, so no item counts as done",
                        RuntimeWarning,
                        stacklevel=2,
                    )
            else:
                tell("run.interrupted", name=self.name, steps=self.steps, why=repr(error))

    def range(self, *ends: int) -> Iterator[int]:
        """Like the built-in `range`, from the first item that is not done."""
        self._writing()
        return self._loops.count(range(*ends))

    def each(self, source: Iterable[T]) -> Iterator[T]:
        """Go through a data loader or any iterable, from the first item that is not done.

        A source with `state_dict` and `load_state_dict` is set to its state. Any other must give the same items
        again when the random generators are as they were: it is started so, and what is done is passed over.
        MismatchError when it ends before that point.
        """
        self._writing()
        return self._loops.each(source)

    def step(self, **metrics: Any) -> Checkpoint | None:
        """A safe point: the item is done. Saves when the policy says so, or leaves on a signal.

        `metrics` (numbers, or what has `item()`) go with the next checkpoint. Returns the checkpoint when one
        was saved. On a signal the state is saved and SystemExit(85) raised; SystemExit(74) when that failed.
        """
        self._writing()
        self._loops.done()
        self.steps += 1
        self._ended = False
        self._metrics = {key: _number(key, value) for key, value in metrics.items()}
        tell("run.step", name=self.name, step=self.steps, metrics=self._metrics, loops=self._loops.places)
        if NOTICE:
            self._save_and_say(NOTICE.words, leaving=True)
            self._leave()
        seen = self._observe()
        decision = self.policy.decide(seen)
        checkpoint = self._decided(seen, decision)
        self._stepped_at = self._clock()
        return checkpoint

    def _decided(self, seen: Observation, decision: Decision) -> Checkpoint | None:
        """Note a decision, and carry it out."""
        last = self.decisions[-1] if self.decisions else None
        count = last.count + 1 if last and not last.decision.save and not decision.save else 1
        if count > 1:
            self.decisions.pop()
        self.decisions.append(Decided(seen, decision, count))
        if not decision.save:
            return None
        refused = last.count if last and not last.decision.save else 0
        return self._save({"reason": decision.reason, "seen": asdict(seen), "refused_before": refused})

    def _resume(self, writer: Writer) -> None:
        damaged: list[str] = []
        try:
            with listening(lambda event: damaged.append(event.data["why"]) if event.kind == _SET_ASIDE else None):
                restored = self.store.restore(self.name, self._request, Select(context=True))
        except CheckpointNotFound:
            self._loops.begin()
            tell("run.started", name=self.name)
            return
        manifest = restored.manifest
        writer.build_on(manifest)
        self.state = restored.state
        self.checkpoint = self.resumed_from = Checkpoint.of(manifest)
        context = restored.context if isinstance(restored.context, dict) else {}
        self.steps = self._saved_steps = self._resumed_steps = context.get("steps", 0)
        self._ended = context.get("ended", False)
        if "loops" in context:
            self._loops.load_state_dict(context["loops"])
        if damaged:
            warnings.warn(
                f"run {self.name!r}: damaged checkpoints were set aside, it goes on after step {self.steps} "
                f"(version {manifest.version}): {'; '.join(damaged)}",
                RuntimeWarning,
                stacklevel=4,
            )
        facts = {"version": manifest.version, "created": manifest.created, "nbytes": manifest.nbytes}
        tell("run.resumed", name=self.name, step=self.steps, **facts)

    def _observe(self) -> Observation:
        now = self._clock()
        runtime = now - self._stepped_at
        self._longest = max(self._longest, runtime)
        return Observation(
            self.steps,
            self.steps - self._saved_steps,
            now - self._saved_at,
            self._save_seconds,
            runtime=runtime,
            longest=self._longest,
        )

    def _save(self, decision: Mapping[str, Any]) -> Checkpoint:
        writer = self._writing()
        began = self._clock()
        before = writer.content()
        context = {"steps": self.steps, "ended": self._ended, "loops": self._loops.state_dict()}
        metadata = {"metrics": self._metrics} if self._metrics else {}
        self.checkpoint = self.store.save_with(
            writer,
            self.state,
            context=context,
            step=self.steps,
            metadata=metadata,
            info={"decision": decision},
        )
        if before is not None and before == writer.content() and self.steps > self._saved_steps:
            warnings.warn(
                f"run {self.name!r}: nothing of the state has changed since the last checkpoint; if the job works "
                "on other arrays, change them in place (w -= g) or through the state (state['w'] = w - g)",
                RuntimeWarning,
                stacklevel=3,
            )
        self._saved_at = self._clock()
        self._save_seconds = self._saved_at - began
        self._saved_steps = self.steps
        return self.checkpoint

    def _save_and_say(self, reason: str, *, leaving: bool) -> None:
        """Save outside of the policy; when leaving anyway, a failure is the exit status."""
        try:
            self._save({"reason": reason})
        except PerdureError as error:
            if not leaving:
                raise
            # To standard error, like SystemExit with a message: an exit without a reason helps nobody.
            sys.stderr.write(f"perdure: the save before leaving failed: {error}\n")
            raise SystemExit(SaveFailed.exit_code) from error

    def _leave_early(self) -> None:
        """Before an item: when everything is saved already, a signal need not wait for the next step."""
        self._items += 1
        if NOTICE and self.steps == self._saved_steps:
            if self.checkpoint is not None:
                self._leave()
            raise SystemExit(128 + (NOTICE.signal or 0))

    def _leave(self) -> NoReturn:
        """Leave on notice, and say to whom is watching that nothing is lost."""
        version = self.checkpoint.version if self.checkpoint else 0
        sys.stderr.write(
            f"perdure: {NOTICE.words}: run {self.name!r} is saved after step {self.steps} (version {version}); "
            "start it again to go on\n"
        )
        raise SystemExit(CHECKPOINTED)

    def _writing(self) -> Writer:
        if self._writer is None:
            raise UsageError(f"run {self.name!r} is not open", hint="use it inside `with perdure.Run(...) as run:`")
        return self._writer

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None


def _number(name: str, value: Any) -> Any:
    try:
        if hasattr(value, "item"):  # asked first: a float64 of NumPy is a float too, and no JSON
            value = value.item()
        if isinstance(value, (bool, int, str)) or value is None:
            return value
        number = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"metric {name!r} is no number: {error}", hint="give one number for each metric") from error
    return number if math.isfinite(number) else str(number)  # JSON has no NaN, and it is worth seeing
