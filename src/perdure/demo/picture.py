"""Draw the timeline: tasks, checkpoints, kills, recoveries, and what the decisions were taken on."""

from __future__ import annotations

import io
import math
from typing import Any

from perdure.demo.report import Bar, Job, Kill, Recovery, Report
from perdure.errors import MissingExtraError

try:
    import matplotlib
except ImportError as error:
    raise MissingExtraError.of("matplotlib", "demo") from error

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
KEPT, LOST, KILLED = "#4c8bbf", "#c98a12", "#d64545"
SAVED, RISK = "#2a9d63", "#8f6bb3"
_FATES = {"kept": (KEPT, "", "white"), "lost": ("#fdeec9", "////", LOST), "killed": ("#f9d0d0", "xxxx", KILLED)}
_WORDS = {"kept": "trained, kept", "lost": "trained, lost", "killed": "killed in the middle"}
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2}
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#cbd2d9",
    "xtick.color": FAINT,
    "ytick.color": INK,
    "hatch.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(report: Report) -> bytes:
    """The timeline of both runs, as PNG."""
    job = report.killed
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(13, 3.2 + 0.42 * report.epochs + 2.6), dpi=120, facecolor="white")
        FigureCanvasAgg(figure)
        heights = [0.42 * report.epochs + 0.9, 1.7, 1.25]
        lanes, below, totals = figure.subplots(3, 1, height_ratios=heights)
        below.sharex(lanes)
        _titles(figure, report)
        _draw_lanes(lanes, job, report.epochs)
        if job.thresholds:
            _draw_threshold(below, job)
        else:
            _draw_risk(below, job)
        _draw_totals(totals, report)
        for axes in (lanes, below):
            axes.set_xlim(0, job.seconds * 1.01)
            for kill in job.kills:
                axes.axvline(kill.time, color=KILLED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        inches = figure.get_figheight()
        figure.subplots_adjust(left=0.12, right=0.97, top=1 - 1.45 / inches, bottom=0.55 / inches, hspace=0.42)
        target = io.BytesIO()
        figure.savefig(target, format="png")
    return target.getvalue()


def _titles(figure: Any, report: Report) -> None:
    where = "on Ray" if report.kind == "ray" else "in one process"
    kills = len(report.killed.kills)
    end = "the same weights, bit for bit" if report.same else "DIFFERENT WEIGHTS"
    inches = figure.get_figheight()
    figure.text(
        0.12,
        1 - 0.42 / inches,
        f"Training {where}, killed {kills} times by SIGKILL: {end}",
        fontsize=16,
        fontweight="bold",
        color=INK if report.same else KILLED,
    )
    figure.text(
        0.97,
        0.18 / inches,
        "The gap after a kill is a new process that loads its libraries.",
        fontsize=8.5,
        color=FAINT,
        ha="right",
    )
    figure.text(
        0.12,
        1 - 0.70 / inches,
        f"{report.data}  ·  {report.parameters:,} parameters  ·  {report.epochs} epochs  ·  seed {report.seed}  ·  "
        f"accuracy {report.killed.accuracy:.2%} on held-out digits",
        fontsize=9.5,
        color=FAINT,
    )


def _draw_lanes(axes: Any, job: Job, epochs: int) -> None:
    for bar in job.bars:
        color, hatch, edge = _FATES[bar.fate]
        style = {"facecolor": color, "edgecolor": edge, "hatch": hatch, "linewidth": 0.6, "zorder": 2}
        axes.barh(bar.epoch, bar.seconds, left=bar.start, height=0.62, **style)
    axes.plot(
        [save.time for save in job.saves],
        [min(max(0, math.ceil(save.at) - 1), epochs - 1) for save in job.saves],
        marker="D",
        markersize=4 if len(job.saves) > 3 * epochs else 8,
        color=SAVED,
        linestyle="none",
        markeredgecolor="white",
        markeredgewidth=0.8,
        zorder=5,
    )
    _draw_kills(axes, job)
    axes.set_ylim(epochs - 0.3, -0.95)
    axes.set_yticks(range(epochs), [f"epoch {epoch}" for epoch in range(epochs)])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.legend(
        handles=_legend(job),
        loc="lower left",
        bbox_to_anchor=(-0.005, 1.0),
        ncols=6,
        frameon=False,
        fontsize=9.5,
        handlelength=1.6,
        columnspacing=1.6,
        borderaxespad=0.1,
    )


def _draw_kills(axes: Any, job: Job) -> None:
    for kill in job.kills:
        axes.plot(kill.time, kill.epoch, marker="X", markersize=11, color=KILLED, markeredgecolor="white", zorder=6)
        _note_kill(axes, job, kill)
        again = next((bar for bar in job.bars if bar.start > kill.time), None)
        source = next((item for item in job.recoveries if item.time >= kill.time), None)
        if again is not None and source is not None:
            arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "connectionstyle": "arc3,rad=-0.25"}
            axes.annotate("", (again.start, again.epoch), xytext=(kill.time, kill.epoch), arrowprops=arrow, zorder=6)
            _note_recovery(axes, job, source, again)


def _note_kill(axes: Any, job: Job, kill: Kill) -> None:
    """Left of the bars of the attempt that was killed, where the lane is still empty."""
    left = min(
        (bar.start for bar in job.bars if bar.epoch == kill.epoch and bar.start <= kill.time), default=kill.time
    )
    text = f"kill -9 {kill.pid}\nbatch {kill.batch} of {kill.batches}"
    place = {"xytext": (-9, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
    axes.annotate(text, (left, kill.epoch), fontsize=8.5, color=KILLED, zorder=7, bbox=_PAPER, **place)


def _note_recovery(axes: Any, job: Job, source: Recovery, again: Bar) -> None:
    what = "from the beginning" if source.version is None else f"version {source.version} restored"
    text = f"{what} in {1000 * source.seconds:.0f} ms\n{source.held:.1f} s kept, {source.redone:.1f} s again"
    late = again.start > 0.8 * job.seconds
    place = {"xytext": (0 if late else 2, 15), "textcoords": "offset points", "ha": "right" if late else "left"}
    at = job.seconds if late else again.start
    axes.annotate(text, (at, again.epoch), fontsize=8.5, color=INK, zorder=7, bbox=_PAPER, **place)


def _legend(job: Job) -> list[Any]:
    def marker(shape: str, color: str, label: str) -> Line2D:
        return Line2D([], [], marker=shape, color=color, linestyle="none", markersize=8, label=label)

    used = {bar.fate for bar in job.bars}
    patches = [
        Patch(facecolor=color, hatch=hatch, edgecolor=edge, label=_WORDS[fate])
        for fate, (color, hatch, edge) in _FATES.items()
        if fate in used
    ]
    arrow = Line2D([], [], marker=r"$\rightarrow$", color=INK, linestyle="none", markersize=13, label="recovery")
    return [*patches, marker("D", SAVED, "checkpoint"), marker("X", KILLED, "SIGKILL"), arrow]


def _draw_threshold(axes: Any, job: Job) -> None:
    times = [0.0, *(time for time, _ in job.thresholds), job.seconds]
    values = [job.thresholds[0][1], *(value for _, value in job.thresholds), job.thresholds[-1][1]]
    axes.step(times, values, where="post", color=RISK, linewidth=2.2, zorder=3, label="threshold")
    axes.fill_between(times, values, step="post", color=RISK, alpha=0.10, zorder=1)
    for save in (True, False):
        rows = [row for row in job.decisions if row.save is save and row.longest]
        axes.scatter(
            [row.time for row in rows],
            [row.cost / row.longest for row in rows if row.longest],
            s=46,
            zorder=4,
            facecolor=SAVED if save else "white",
            edgecolor=SAVED if save else FAINT,
            linewidth=1.4,
            label="ratio: checkpoint" if save else "ratio: skip",
        )
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("cost / longest")
    axes.set_xlabel("seconds")
    axes.grid(color=GRID, linewidth=0.8)
    used, budget = job.budget or (0, 0)
    title = f"Decisions: checkpoint when ratio ≥ threshold, while the budget lasts ({used} of {budget} used)"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, frameon=False, fontsize=9, borderaxespad=0.2)


def _draw_risk(axes: Any, job: Job) -> None:
    """Seconds of training that a kill would cost at each moment."""
    times, risks = [0.0], [0.0]
    saves = [save.time for save in job.saves]
    for bar in job.bars:
        fresh = any(times[-1] <= time <= bar.start for time in saves)
        risk, at = 0.0 if fresh else risks[-1], bar.start
        times.append(at)
        risks.append(risk)
        for cut in [time for time in saves if bar.start < time < bar.end]:
            times += [cut, cut]
            risks += [risk + cut - at, 0.0]
            risk, at = 0.0, cut
        times += [bar.end, bar.end]
        risks += [risk + bar.end - at, 0.0 if bar.fate == "killed" else risk + bar.end - at]
    axes.fill_between(times, risks, color=RISK, alpha=0.25, linewidth=0)
    axes.plot(times, risks, color=RISK, linewidth=1.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("seconds")
    axes.set_xlabel("seconds")
    axes.grid(color=GRID, linewidth=0.8)
    title = "Work at risk: training since the last checkpoint (saving takes at most 2 % of the time)"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")


def _draw_totals(axes: Any, report: Report) -> None:
    killed = report.killed
    rows = [
        ("no kills", report.undisturbed.seconds, "#9fb3c8", ""),
        ("perdure", killed.seconds, KEPT, f"saving and restoring: {killed.overhead:.2f} s of it"),
        ("from nothing", killed.seconds + killed.time_saved, "#e9a6a6", f"{killed.time_saved:+.1f} s (computed)"),
    ]
    longest = max(seconds for _, seconds, _, _ in rows)
    for place, (_, seconds, color, note) in enumerate(rows):
        axes.barh(place, seconds, height=0.6, color=color)
        text = f"{seconds:.1f} s" + (f"  ·  {note}" if note else "")
        axes.text(seconds + longest * 0.008, place, text, va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, longest * 1.3)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    axes.spines["bottom"].set_visible(False)
    title = "The whole job, with the same kills: going on from checkpoints, and starting again from nothing"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
