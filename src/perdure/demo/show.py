"""Show on a terminal how the demo goes, and what came of it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from perdure.demo.report import Job, Report, Row

_ROWS = 16
_WIDTH = 120
_LOOK: dict[str, Any] = {"title_justify": "left", "box": SIMPLE_HEAD, "show_edge": False, "pad_edge": False}


class Narrator:
    """Bars on a terminal, plain lines elsewhere. It keeps the stream that it was given, whatever is redirected."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live = self._console.is_terminal
        columns = TextColumn("{task.description:<12}"), BarColumn(40), TextColumn("{task.fields[where]}")
        self._progress = Progress(
            *columns,
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar: TaskID | None = None
        self._epochs = 1

    def __enter__(self) -> Narrator:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, title: str, epochs: int) -> None:
        self.end()
        self._epochs = epochs
        self._bar = self._progress.add_task(title, total=epochs, where="")
        if not self._live:
            self.say(f"training {title}, {epochs} epochs")

    def at(self, position: float) -> None:
        if self._live and self._bar is not None:
            where = f"{position:.1f} of {self._epochs} epochs"
            self._progress.update(self._bar, completed=position, where=where)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def end(self) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, completed=self._epochs)
            self._progress.stop_task(self._bar)
            self._bar = None


def show(report: Report, stream: TextIO) -> None:
    """Print tables, digests and verdict."""
    console = Console(file=stream, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, markup=False, width=_WIDTH)
    killed, undisturbed = report.killed, report.undisturbed
    console.print()
    console.print(_decisions(killed))
    if killed.budget is not None:
        used, budget = killed.budget
        console.print(f"Budget: {used} of {budget} checkpoints; threshold at the end {killed.thresholds[-1][1]:.3f}")
    console.print()
    console.print(_kills(killed))
    held = sum(recovery.held for recovery in killed.recoveries)
    console.print(
        f"Time saved: {round(killed.time_saved, 1) + 0.0:.1f} s. After the kills {held:.1f} s "
        f"of training came out of checkpoints instead of being done again from nothing; saving and restoring cost "
        f"{killed.overhead:.1f} s. All of it measured in this run.",
        soft_wrap=True,
    )
    console.print()
    console.print(_ends(report))
    if report.faults:
        for fault in report.faults:
            console.print(f"FAILED: {fault}", style="bold red")
    else:
        console.print("Both runs ended with the same weights, bit for bit.", style="bold green")
    console.print(f"The timeline: {report.picture}", soft_wrap=True)
    console.print(f"The checkpoints: {killed.store} and {undisturbed.store}", soft_wrap=True)


def _decisions(job: Job) -> Table:
    table = Table(title="Decisions", **_LOOK)
    ruled = bool(job.thresholds)
    for name in ("at", "task", "cost", *(("longest", "threshold") if ruled else ())):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    table.add_column("reason")
    rows = job.decisions
    shown = rows if len(rows) <= _ROWS else rows[: _ROWS // 2] + rows[-_ROWS // 2 :]
    for number, row in enumerate(shown):
        if len(shown) < len(rows) and number == _ROWS // 2:
            table.add_row("", f"... {len(rows) - len(shown)} more, in report.json")
        table.add_row(*_cells(row, ruled))
    return table


def _cells(row: Row, ruled: bool) -> list[str]:
    rule = [f"{row.longest or 0:.2f} s", f"{row.threshold or 0:.3f}"] if ruled else []
    verdict = "save" if row.save else "skip"
    return [f"{row.time:.1f} s", row.task, f"{row.cost:.2f} s", *rule, verdict, row.reason]


def _kills(job: Job) -> Table:
    table = Table(title="Kills and recoveries", **_LOOK)
    for name in ("at", "pid", "epoch", "batch", "restored", "in", "goes on at", "kept", "again"):
        table.add_column(name, justify="left" if name == "restored" else "right", no_wrap=True)
    for kill in job.kills:
        after = next((recovery for recovery in job.recoveries if recovery.time >= kill.time), None)
        cells = [f"{kill.time:.1f} s", f"{kill.pid}", f"{kill.epoch}", f"{kill.batch}"]
        if after is not None:
            restored = ["nothing", ""] if after.version is None else [f"v{after.version}", _ms(after.seconds)]
            cells += [*restored, f"{after.at:.4g}", f"{after.held:.1f} s", f"{after.redone:.1f} s"]
        table.add_row(*cells)
    return table


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _ends(report: Report) -> Table:
    table = Table(title=f"The end of both, {report.parameters:,} parameters", **_LOOK)
    table.add_column("")
    for job in (report.killed, report.undisturbed):
        table.add_column(job.title)
    both = (report.killed, report.undisturbed)
    table.add_row("seconds", *(f"{job.seconds:.1f}" for job in both))
    table.add_row("accuracy on held-out digits", *(f"{job.accuracy:.2%}" for job in both))
    table.add_row("sha256 of the weights", *(job.weights[:20] for job in both))
    table.add_row("sha256 of Adam's state", *(job.optimizer[:20] for job in both))
    return table
