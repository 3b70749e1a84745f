"""The main job without Ray: a training script that is killed by SIGKILL and started again."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from perdure.demo import killer, model
from perdure.demo.journal import Journal
from perdure.demo.plan import Plan, Tell
from perdure.demo.report import Bar, Job, Kill, Recovery, Row, Saved
from perdure.errors import PerdureError
from perdure.store import CheckpointStore

STATE = "mnist"
_POLL = 0.005
_PATIENCE = 5


class PlainJob:
    """One training, by as many processes as it takes."""

    def __init__(self, plan: Plan, folder: Path, title: str, targets: list[float], tell: Tell) -> None:
        self.plan = plan
        self.folder = folder
        self.store = folder / "store"
        self.targets = list(targets)
        self.tell = tell
        self.journal = Journal(title, str(self.store))
        self.batches = 1

    def run(self) -> Job:
        self.folder.mkdir(parents=True)
        result = self.folder / "result.json"
        for attempt in range(1, self.plan.kills + _PATIENCE):
            if self._attempt(attempt, result):
                outcome = json.loads(result.read_text())
                return self.journal.job(outcome["accuracy"], outcome["weights"], outcome["optimizer"])
        raise PerdureError("the training script does not come to its end", hint=f"see {self.folder}/script.log")

    def _attempt(self, number: int, result: Path) -> bool:
        """Start the script, and kill it when its time has come; whether it came to its end."""
        diary, meter = self.folder / f"attempt-{number}.jsonl", self.folder / f"attempt-{number}.meter"
        plan = self.plan
        paths = [self.store, diary, meter, result]
        options = [plan.use, plan.cache, plan.epochs, plan.seed]
        script = [sys.executable, "-m", "perdure.demo.plain_script", *map(str, [*paths, *options])]
        with (self.folder / "script.log").open("a") as log:
            process = subprocess.Popen(script, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            target = self.targets[0] if self.targets else math.inf
            hit = killer.strike(meter, target, lambda: _over(process), self.tell.at)
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        moment = killer.read(meter)
        notes = [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []
        self._read(notes, hit)
        if hit is not None and moment is not None and moment.training:
            self._note_kill(hit, moment, status)
        elif status:
            raise PerdureError(f"the training script left with status {status}", hint=f"see {self.folder}/script.log")
        return status == 0

    def _note_kill(self, hit: killer.Hit, moment: killer.Moment, status: int) -> None:
        self.targets.pop(0)
        seen_as = f"exit status {status}"
        self.journal.kills.append(
            Kill(self.journal.since(hit.time), hit.pid, moment.epoch, moment.batch, moment.batches, seen_as)
        )
        self.tell.say(
            f"SIGKILL to process {hit.pid} in epoch {moment.epoch}, batch {moment.batch} of "
            f"{moment.batches}: {seen_as}; started again"
        )

    def _read(self, notes: list[dict[str, Any]], hit: killer.Hit | None) -> None:
        """Take in what one process wrote down."""
        journal = self.journal
        opened, resumed, began = 0.0, None, None
        for note in notes:
            at = journal.since(note["time"])
            if note["what"] == "opening":
                opened, self.batches = at, note["batches"]
            elif note["what"] == "resumed":
                resumed = note
            elif note["what"] == "began":
                began = (note["epoch"], at)
                if resumed is not None:
                    self._note_recovery(resumed, at, at - opened)
                    resumed = None
            elif note["what"] == "ended" and began is not None:
                journal.bars.append(Bar(began[0], began[1], at))
                began = None
            elif note["what"] == "saved":
                journal.saves.append(self._saved(note, at))
            elif note["what"] == "decided":
                journal.decisions.append(_row(note, at))
        if began is not None and hit is not None:
            journal.bars.append(Bar(began[0], began[1], journal.since(hit.time), "killed"))

    def _note_recovery(self, note: dict[str, Any], at: float, seconds: float) -> None:
        journal = self.journal
        saved = next((save for save in reversed(journal.saves) if save.version == note["version"]), None)
        if saved is None:  # killed between the commit and writing it down
            saved = Saved(journal.kills[-1].time, note["version"], note["step"] / self.batches, 0.0, 0)
            journal.saves.append(saved)
        redone = journal.lose(saved.time)
        held, overhead = journal.held(), journal.unpaid() + seconds
        journal.recoveries.append(Recovery(at, saved.version, saved.at, seconds, held, redone, overhead))
        self.tell.say(
            f"restored version {saved.version} and the place in the data, epoch {saved.at:.4g}, in {seconds:.3f} s: "
            f"{held:.1f} s of training kept, {redone:.1f} s done again"
        )

    def _saved(self, note: dict[str, Any], at: float) -> Saved:
        return Saved(at, note["version"], note["step"] / self.batches, note["seconds"], note["nbytes"])


def run(plan: Plan, folder: Path, tell: Tell) -> tuple[Job, Job, bool]:
    """The job with kills, the job without, and whether both ended with the same bits."""
    tell.begin("with kills", plan.epochs)
    killed = PlainJob(plan, folder / "killed", "with kills", plan.targets, tell).run()
    tell.begin("undisturbed", plan.epochs)
    undisturbed = PlainJob(plan, folder / "undisturbed", "undisturbed", [], tell).run()
    tell.end()
    one, other = (CheckpointStore(job.store).load(STATE) for job in (killed, undisturbed))
    digests = (killed.weights, killed.optimizer) == (undisturbed.weights, undisturbed.optimizer)
    return killed, undisturbed, digests and model.same(one, other)


def _over(process: subprocess.Popen[bytes]) -> bool:
    time.sleep(_POLL)
    return process.poll() is not None


def _row(note: dict[str, Any], at: float) -> Row:
    """A save and the refusals before it, as one decision."""
    seen, decision = note["seen"], note["decision"]
    task = f"batches {seen['step'] - seen['unsaved_steps'] + 1}-{seen['step']}"
    return Row(at, task, seen["unsaved_seconds"], None, None, decision["save"], decision["reason"])
