"""The main job on Ray: stateless epoch tasks, decisions by the controller, workers killed by SIGKILL."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from perdure.controller import AdaptiveCheckpointController
from perdure.demo import killer, model, ray_tasks
from perdure.demo.journal import Journal
from perdure.demo.plan import Plan, Tell
from perdure.demo.ray_tasks import submit
from perdure.demo.report import Bar, Job, Kill, Recovery, Row, Saved
from perdure.errors import MissingExtraError
from perdure.store import CheckpointStore

try:
    import ray
except ImportError as error:
    raise MissingExtraError.of("ray", "demo") from error

STATE = "mnist"
THRESHOLD = 0.35
_POLL = 0.005
_PATIENCE = 5
_OBJECT_STORE = 768 << 20


@contextlib.contextmanager
def cluster(log: Path) -> Iterator[None]:
    """A Ray of our own on this machine; what it has to say goes to `log`."""
    folder = tempfile.mkdtemp(prefix="pd-ray-", dir="/tmp")  # socket paths may have 107 characters in all
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def budget_for(epochs: int) -> int:
    """Checkpoints allowed: three quarters of the epochs, so that the last ones show what a budget does."""
    return max(1, epochs * 3 // 4)


class RayJob:
    """One training of the network, from loading to evaluation."""

    def __init__(self, plan: Plan, folder: Path, title: str, targets: list[float], tell: Tell) -> None:
        self.plan = plan
        self.targets = list(targets)
        self.folder = folder
        self.tell = tell
        folder.mkdir()
        self.store = CheckpointStore(folder)
        self.controller = AdaptiveCheckpointController(folder, budget_for(plan.epochs), THRESHOLD)
        self.journal = Journal(title, str(folder))
        self.attempts = 0

    def run(self) -> tuple[Job, model.State]:
        """Train to the end, whatever is killed; the record of it, and the final state."""
        digits, span = submit(ray_tasks.load_data, self.plan.use, str(self.plan.cache))
        # What the cache holds is durable already: observed, but nothing to decide.
        self.controller.observe_task("load_data", _seconds(ray.get(span)))
        self._note_threshold()
        state, span = submit(ray_tasks.init_model, self.plan.seed)
        self._decide("init_model", state, ray.get(span), STATE, done=0)
        first, epoch = state, 0
        while epoch < self.plan.epochs:
            try:
                state = self._train(state, digits, epoch)
                epoch += 1
            except ray.exceptions.WorkerCrashedError as error:
                state, epoch = self._recover(first, epoch, error)
        result, span = submit(ray_tasks.evaluate, state, digits)
        self._decide("evaluate", result, ray.get(span), "evaluation", self.plan.epochs)
        self.journal.budget = (self.controller.used, self.controller.budget)
        self.controller.save_metadata()
        final: model.State = ray.get(state)
        weights, optimizer = (model.digest(final[key]) for key in ("model_state_dict", "optimizer_state_dict"))
        return self.journal.job(ray.get(result)["accuracy"] / 100, weights, optimizer), final

    def _train(self, state: Any, digits: Any, epoch: int) -> Any:
        self.attempts += 1
        meter = self.folder / f"attempt-{self.attempts}.meter"
        trained, span = submit(ray_tasks.train_epoch, state, digits, epoch, self.plan.seed, str(meter))
        target = self.targets[0] if self.targets else math.inf
        hit = killer.strike(meter, target, _ended(span), self.tell.at)
        try:
            began_ended = ray.get(span)
        except ray.exceptions.WorkerCrashedError as error:
            with contextlib.suppress(ray.exceptions.WorkerCrashedError):
                ray.get(trained)  # unasked, Ray would complain that nobody looked at this one
            self._note_death(meter, hit, error)
            raise
        finally:
            meter.unlink(missing_ok=True)
        self.journal.bars.append(Bar(epoch, self.journal.since(began_ended[0]), self.journal.since(began_ended[1])))
        self.tell.at(epoch + 1)
        self._decide(f"train_epoch_{epoch}", trained, began_ended, STATE, done=epoch + 1)
        return trained

    def _decide(self, task: str, result: Any, span: ray_tasks.Span, name: str, done: int) -> None:
        """The basic integration of the specification: observe, decide, save."""
        seconds = _seconds(span)
        self.controller.observe_task(task, seconds)
        save = self.controller.should_checkpoint(task, seconds)
        entry = self.controller.decision_log[-1]
        self.journal.decisions.append(
            Row(self.journal.now(), task, seconds, entry["max_seen"], entry["threshold"], save, entry["reason"])
        )
        self._note_threshold()
        if save:
            self._save(task, ray.get(result), name, done)

    def _save(self, task: str, state: model.State, name: str, done: int) -> None:
        began = time.time()
        facts = {"task": task, "loss": state["loss"], "accuracy": state["accuracy"]}
        saved = self.store.save(name, state, step=done, metadata=facts)
        seconds = time.time() - began
        self.journal.saves.append(Saved(self.journal.since(began), saved.version, done, seconds, saved.nbytes))

    def _note_death(self, meter: Path, hit: killer.Hit | None, error: Exception) -> None:
        """Record the training that was cut off, and the kill where it was ours."""
        moment = killer.read(meter)
        if moment is None:
            return
        journal = self.journal
        end = journal.now() if hit is None else journal.since(hit.time)
        journal.bars.append(Bar(moment.epoch, journal.since(moment.began), end, "killed"))
        if hit is None or not moment.training:
            return
        self.targets.pop(0)
        seen_as = type(error).__name__
        journal.kills.append(Kill(end, hit.pid, moment.epoch, moment.batch, moment.batches, seen_as))
        self.tell.say(
            f"SIGKILL to process {hit.pid} in epoch {moment.epoch}, batch {moment.batch} of "
            f"{moment.batches}: the driver sees {seen_as}"
        )

    def _recover(self, first: Any, epoch: int, error: Exception) -> tuple[Any, int]:
        """The recovery pattern of the specification, and the state and epoch to go on with."""
        if self.attempts > self.plan.epochs + self.plan.kills + _PATIENCE:
            raise error  # it does not die of our kills
        journal = self.journal
        began = time.time()
        if not self.store.exists(STATE):
            redone = journal.lose(after=0.0)
            journal.recoveries.append(Recovery(journal.now(), None, 0, 0.0, 0.0, redone, 0.0))
            self.tell.say("no checkpoint yet: from the beginning")
            return first, 0
        state = self.store.load(STATE)
        seconds = time.time() - began
        on = state["epoch"] + 1
        saved = next(save for save in reversed(journal.saves) if save.at == on)
        redone = journal.lose(saved.time)
        held, overhead = journal.held(), journal.unpaid() + seconds
        self.controller.adjust_policy(recovery_time_saved=held, checkpoint_overhead=overhead)
        self._note_threshold()
        journal.recoveries.append(Recovery(journal.now(), saved.version, on, seconds, held, redone, overhead))
        self.tell.say(
            f"restored version {saved.version} in {seconds:.3f} s, going on with epoch {on}: "
            f"{held:.1f} s of training kept, {redone:.1f} s to do again, "
            f"threshold now {self.controller.cost_threshold:.3f}"
        )
        return ray.put(state), on

    def _note_threshold(self) -> None:
        self.journal.thresholds.append((self.journal.now(), self.controller.cost_threshold))


def run(plan: Plan, folder: Path, tell: Tell) -> tuple[Job, Job, bool]:
    """The job with kills, the job without, and whether both ended with the same bits."""
    tell.say("starting Ray on this machine")
    with cluster(folder / "ray.log"):
        tell.begin("with kills", plan.epochs)
        killed, one = RayJob(plan, folder / "killed", "with kills", plan.targets, tell).run()
        tell.begin("undisturbed", plan.epochs)
        undisturbed, other = RayJob(plan, folder / "undisturbed", "undisturbed", [], tell).run()
        tell.end()
    return killed, undisturbed, model.same(one, other)


def _ended(reference: Any) -> Callable[[], bool]:
    def ended() -> bool:
        done, _ = ray.wait([reference], timeout=_POLL)
        return bool(done)

    return ended


def _seconds(span: ray_tasks.Span) -> float:
    began, ended = span
    return ended - began
