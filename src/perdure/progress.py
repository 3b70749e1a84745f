"""Show a run to the person who waits for it: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TextIO

from perdure.events import Event

_REFRESH_SECONDS = 0.1
_SAVES_SECONDS = 1.0

Place = tuple[int, int | None]


class Progress:
    """A listener for `perdure.events` that follows the first run it sees: `with listening(Progress()): ...`.

    Everything goes to `stream`, standard error by default. Where that is no terminal, steps give at most one
    line every `every` seconds, saves at most one a second, with the number of those in between; whatever else
    happens to the run is always said. A stream that breaks ends the showing, never the run.
    """

    def __init__(
        self, stream: TextIO | None = None, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._every = every
        self._clock = clock
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._display: _Display | None = None
        self._broken = False
        self._name: str | None = None
        self._idle = False
        self._checkpoint = ""
        self._saved_at = self._said_step = self._said_save = float("-inf")
        self._unsaid = 0

    def __call__(self, event: Event) -> None:
        show = _SHOWN.get(event.kind)
        foreign = self._name is not None and event.data.get("name", self._name) != self._name
        if show is None or foreign or self._broken or os.getpid() != self._pid:
            return  # nested runs have a Progress each, and a forked child is not the run
        with self._lock:
            try:
                show(self, event.data, event.time)
            except (OSError, ValueError):
                # The terminal is gone or the stream is closed: that must not end the run.
                self._broken = True
                self._close()

    def _started(self, data: Mapping[str, Any], at: float) -> None:
        self._name = data["name"]
        self._say("started")
        self._open()

    def _resumed(self, data: Mapping[str, Any], at: float) -> None:
        self._name, self._idle = data["name"], True
        since = at - data["created"]
        self._remember(data, self._clock() - since)
        self._say(f"resumed from {self._checkpoint}, saved {age(since)} ago")
        self._open()

    def _step(self, data: Mapping[str, Any], at: float) -> None:
        self._idle = False
        now = self._clock()
        if now - self._said_step < (self._every if self._display is None else _REFRESH_SECONDS):
            return
        self._said_step = now
        if self._display is None:
            places = ", ".join(f"{done}/{'?' if total is None else total}" for done, total in data["loops"])
            step = f"step {data['step']} ({places})" if places else f"step {data['step']}"
            self._say(f"{step} {figures(data['metrics'])}".rstrip())
        else:
            last = f"{self._checkpoint}, {age(now - self._saved_at)} ago" if self._checkpoint else "none yet"
            self._display.update(data["step"], data["loops"], figures(data["metrics"]), last)

    def _saved(self, data: Mapping[str, Any], at: float) -> None:
        now = self._clock()
        self._remember(data, now)
        if self._display is not None:
            return  # it shows the last checkpoint all the time
        if now - self._said_save < _SAVES_SECONDS:
            self._unsaid += 1
            return
        more = f", and {self._unsaid} before it" if self._unsaid else ""
        self._said_save, self._unsaid = now, 0
        self._say(f"saved {self._checkpoint}, in {data['seconds']:.2f} s{more}")

    def _ended(self, data: Mapping[str, Any], at: float) -> None:
        self._close()
        if self._idle:
            self._say(f"already finished: nothing was left to do after step {data['steps']}")
        else:
            self._say(f"ended after step {data['steps']}; {self._newest()}")

    def _interrupted(self, data: Mapping[str, Any], at: float) -> None:
        self._close()
        self._say(f"stopped after step {data['steps']} by {data['why']}; {self._newest()}")

    def _remember(self, data: Mapping[str, Any], saved_at: float) -> None:
        step = "" if data["step"] is None else f"step {data['step']}, "
        # What holds plain values only has no bytes beside its manifest.
        facts = f"{step}{size(data['nbytes']) if data['nbytes'] else 'plain values'}"
        self._checkpoint = f"version {data['version']} ({facts})"
        self._saved_at = saved_at

    def _newest(self) -> str:
        return f"the newest checkpoint is {self._checkpoint}" if self._checkpoint else "nothing was saved"

    def _say(self, text: str) -> None:
        line = printable(f"{self._name}: {text}" if self._name else text)
        if self._display is not None:
            self._display.write(line)
        elif (stream := self._stream or sys.stderr) is not None:
            stream.write(f"perdure: {line}\n")
            stream.flush()

    def _open(self) -> None:
        stream = self._stream or sys.stderr
        if stream is not None and stream.isatty() and not _Display.active:
            self._display = _Display.on(stream, self._name or "")

    def _close(self) -> None:
        display, self._display = self._display, None
        if display is not None:
            display.stop()


def _told(template: str) -> Callable[[Progress, Mapping[str, Any], float], None]:
    def show(progress: Progress, data: Mapping[str, Any], at: float) -> None:
        progress._say(template.format(**data))

    return show


_SHOWN: dict[str, Callable[[Progress, Mapping[str, Any], float], None]] = {
    "run.started": Progress._started,
    "run.resumed": Progress._resumed,
    "run.step": Progress._step,
    "run.ended": Progress._ended,
    "run.interrupted": Progress._interrupted,
    "save.committed": Progress._saved,
    "save.failed": _told("a save failed: {why}"),
    "restore.set-aside": _told("version {version} is damaged and was set aside: {why}"),
    "lease.waiting": _told("waiting up to {seconds:.0f} s to see whether {who} is still alive"),
    "lease.taken-over": _told("taken over from {from_}, which is gone"),
    "lease.lost": _told("another process has taken over; the next save will fail"),
}


class _Display:
    """The live part: a bar for each active loop, the metrics, the last checkpoint.

    It is drawn when something happens and never by a thread: a training that forks workers must not find a
    thread of ours holding a lock.
    """

    active: ClassVar[bool] = False

    @classmethod
    def on(cls, stream: TextIO, name: str) -> _Display | None:
        """A display on a terminal; None on one that cannot move its cursor."""
        from rich.console import Console

        console = Console(file=stream)
        return cls(console, name) if console.is_terminal and not console.is_dumb_terminal else None

    def __init__(self, console: Any, name: str) -> None:
        from rich import progress
        from rich.live import Live

        columns = [progress.TextColumn("{task.description}", markup=False), progress.BarColumn()]
        columns += [progress.MofNCompleteColumn(), progress.TimeElapsedColumn(), progress.TimeRemainingColumn()]
        self._bars = progress.Progress(*columns, console=console, auto_refresh=False)
        self._name = printable(name)
        self._console = console
        self._tasks: list[Any] = []
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._live = Live(
            self._bars, console=console, auto_refresh=False, transient=True, redirect_stdout=on_terminal
        )
        self._live.start()
        _Display.active = True

    def update(self, step: int, loops: Sequence[Place], metrics: str, last: str) -> None:
        """Draw the state of things after a step."""
        from rich.console import Group
        from rich.text import Text

        places = loops or [(step, None)]
        for depth, (done, total) in enumerate(places):
            if depth == len(self._tasks):
                label = f"{'  ' * depth}{self._name if depth == 0 else 'inner loop'}"
                self._tasks.append(self._bars.add_task(label, total=total, completed=done))
            task = self._tasks[depth]
            if done < self._bars.tasks[depth].completed:
                self._bars.reset(task, total=total, completed=done)
            self._bars.update(task, total=total, completed=done, visible=True)
        for task in self._tasks[len(places) :]:
            self._bars.update(task, visible=False)
        line = Text(f"step {step}  {metrics}\nlast checkpoint: {last}", style="dim")
        self._live.update(Group(self._bars, line), refresh=True)

    def write(self, line: str) -> None:
        """A line above the display, which stays."""
        self._console.print(f"perdure: {line}", markup=False, highlight=False)

    def stop(self) -> None:
        """Take the display away. A terminal that is gone is no error."""
        _Display.active = False
        try:
            self._live.stop()
        except (OSError, ValueError):
            return


def size(nbytes: float) -> str:
    """Bytes for people: `1.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def age(seconds: float) -> str:
    """A duration for people: `5 min`; a clock that was set back gives 0."""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds)) // length} {unit}"
    return f"{int(seconds // 86400)} d"


def figures(metrics: Mapping[str, Any]) -> str:
    """Metrics on one line: `loss=0.1235 accuracy=0.97`."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in metrics.items()
    )


def printable(text: str) -> str:
    """The text without what could move a terminal's cursor: names and reasons may come from others' files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
