"""What a person sees of a run: plain lines in files, a display on a terminal, nothing that ends the run."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.events import Event, listening
from perdure.progress import Progress, age, figures, printable, size


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Takes what a terminal would."""

    def isatty(self) -> bool:
        return True


def loop(store: Path, *, items: int = 3, fail_at: int | None = None) -> None:
    with perdure.Run("job", {"count": [0]}, store=store, policy=perdure.EverySteps(2)) as run:
        for index in run.range(items):
            if index == fail_at:
                raise ZeroDivisionError
            run.state["count"][0] += 1
            run.step(loss=0.123456)


def lines(out: io.StringIO) -> list[str]:
    return [line.removeprefix("perdure: job: ") for line in out.getvalue().splitlines()]


def step(number: int, *loops: tuple[int, int | None], **metrics: Any) -> Event:
    return Event("run.step", {"name": "job", "step": number, "metrics": metrics, "loops": list(loops)})


def saved(version: int, name: str = "job") -> Event:
    data = {"name": name, "step": version, "version": version, "nbytes": 2048, "seconds": 0.25}
    return Event("save.committed", data)


def started(name: str = "job") -> Event:
    return Event("run.started", {"name": name})


def ended(steps: int = 1) -> Event:
    return Event("run.ended", {"name": "job", "steps": steps})


def test_a_run_in_plain_lines(tmp_path: Path) -> None:
    out = io.StringIO()
    with listening(Progress(out, clock=Clock())):
        loop(tmp_path)
    said = lines(out)
    assert said[:2] == ["started", "step 1 (1/3) loss=0.1235"]
    assert re.fullmatch(r"saved version 1 \(step 2, .+\), in \d+\.\d\d s", said[2])
    assert said[-1].startswith("ended after step 3; the newest checkpoint is version ")
    assert all(line.startswith("perdure: job: ") for line in out.getvalue().splitlines())


def test_a_run_that_resumes_and_one_that_has_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        loop(tmp_path, fail_at=2)
    out = io.StringIO()
    with listening(Progress(out, clock=Clock())):
        loop(tmp_path)
    assert re.fullmatch(r"resumed from version 1 \(step 2, .+\), saved \d+ s ago", lines(out)[0])
    assert lines(out)[1].startswith("step 3 (3/3)")
    out = io.StringIO()
    with listening(Progress(out, clock=Clock())):
        loop(tmp_path)
    assert lines(out)[-1] == "already finished: nothing was left to do after step 3"


def test_a_run_that_is_stopped_says_by_what(tmp_path: Path) -> None:
    out = io.StringIO()
    with listening(Progress(out, clock=Clock())), pytest.raises(ZeroDivisionError):
        loop(tmp_path, fail_at=1)
    assert lines(out)[-1] == "stopped after step 1 by ZeroDivisionError(); nothing was saved"


def test_a_damaged_checkpoint_is_mentioned(tmp_path: Path) -> None:
    loop(tmp_path, items=5)
    newest = max((tmp_path / "checkpoints" / "job").glob("*.manifest"))
    newest.write_bytes(newest.read_bytes()[:-5])
    out = io.StringIO()
    with listening(Progress(out, clock=Clock())), pytest.warns(RuntimeWarning, match="it goes on after step"):
        loop(tmp_path, items=5)
    assert "is damaged and was set aside: " in out.getvalue().splitlines()[0]


def test_steps_are_thinned_and_no_save_is_forgotten() -> None:
    out, clock = io.StringIO(), Clock()
    show = Progress(out, every=5.0, clock=clock)
    show(started())
    for number in range(1, 12):
        show(step(number))
        show(saved(number))
        clock.now += 0.5
    assert [line for line in lines(out) if line.startswith("step")] == ["step 1", "step 11"]
    saves = [line for line in lines(out) if line.startswith("saved")]
    assert saves[:2] == [
        "saved version 1 (step 1, 2.0 KiB), in 0.25 s",
        "saved version 3 (step 3, 2.0 KiB), in 0.25 s, and 1 before it",
    ]
    assert len(saves) == 6


def test_the_places_of_nested_loops_come_with_the_step(tmp_path: Path) -> None:
    places: list[Any] = []

    def listen(event: Event) -> None:
        if event.kind == "run.step":
            places.append(event.data["loops"])

    with listening(listen), perdure.Run("job", store=tmp_path) as run:
        for _ in run.range(3):
            for _ in run.each(iter("ab")):
                for _ in run.each(["x"]):
                    run.step()
            run.step()
    # The middle loop ends its last round at the same position as the outer one, and is not taken for it.
    assert places[-3:] == [[(2, 3), (0, None), (1, 1)], [(2, 3), (1, None), (1, 1)], [(3, 3)]]
    out = io.StringIO()
    Progress(out, clock=Clock())(step(1, (2, 3), (1, None)))
    assert out.getvalue() == "perdure: step 1 (2/3, 1/?)\n"


def test_only_the_first_run_is_followed() -> None:
    out = io.StringIO()
    show = Progress(out, clock=Clock())
    show(started())
    show(started("inner"))
    show(saved(1, "inner"))
    assert lines(out) == ["started"]


def test_a_forked_child_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    show = Progress(out)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    show(started())
    assert out.getvalue() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stream_that_closes_ends_the_showing_only(terminal: bool) -> None:
    out = Terminal() if terminal else io.StringIO()
    show = Progress(out, clock=Clock())
    show(started())
    out.close()
    for event in (step(1, (1, 2)), saved(1), ended()):
        show(event)
    show = Progress(out, clock=Clock())
    show(started())


def test_without_a_stream_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    show = Progress()
    for event in (started(), step(1), ended()):
        show(event)


def test_the_listener_of_a_run_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with perdure.Run("job", store=tmp_path, progress=True) as run:
        run.step()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "perdure: job: started" in captured.err
    loop(tmp_path / "other")
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Any]]:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    here, there = pty.openpty()
    with os.fdopen(there, "w") as stream:
        yield here, stream
    os.close(here)


def read_until(here: int, text: str) -> str:
    """What the terminal was sent, up to `text`: a read may give only a part of what was written."""
    shown = ""
    while text not in shown:
        ready, _, _ = select.select([here], [], [], 30)
        assert ready, f"{text!r} is not in {shown!r}"
        shown += os.read(here, 4096).decode(errors="replace")
    return shown


def test_a_terminal_gets_a_bar_that_goes_away(terminal: tuple[int, Any]) -> None:
    here, stream = terminal
    clock = Clock()
    show = Progress(stream, clock=clock)
    before = sys.stdout
    for event in (started(), step(1, (1, 3), (4, 7), loss=0.5), saved(1)):
        clock.now += 1
        show(event)
    clock.now += 4
    show(step(2, (2, 3)))
    live = read_until(here, "4 s ago")
    show(Event("save.failed", {"name": "job", "why": "no space"}))
    show(ended(2))
    last = read_until(here, "ended after step 2; the newest checkpoint is version 1 (step 1, 2.0 KiB)")
    assert "1/3" in live
    assert "inner loop" in live
    assert "4/7" in live
    assert "loss=0.5" in live
    assert "last checkpoint: none yet" in live
    assert "last checkpoint: version 1 (step 1, 2.0 KiB), 4 s ago" in live
    assert "a save failed: no space" in last
    assert "\x1b[?25h" in last, "the cursor is shown again"
    assert sys.stdout is before


def test_a_run_inside_a_run_has_lines_while_the_outer_one_has_the_display(terminal: tuple[int, Any]) -> None:
    here, stream = terminal
    outer = Progress(stream, clock=Clock())
    outer(started("outer"))
    out = Terminal()
    inner = Progress(out, clock=Clock())
    for event in (started(), step(1)):
        inner(event)
    assert lines(out) == ["started", "step 1"]
    outer(Event("run.interrupted", {"name": "outer", "steps": 0, "why": "KeyboardInterrupt()"}))
    read_until(here, "stopped after step 0 by KeyboardInterrupt()")


def test_words_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 * 1024**2, 3 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 TiB",
    ]
    assert [age(n) for n in (-5, 119, 120, 7200, 172800)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]
    assert figures({"loss": 0.123456, "ok": True}) == "loss=0.1235 ok=True"
    assert printable("a\x1b[2J\nb é") == "a\\x1b[2J\\nb é"
