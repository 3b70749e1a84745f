"""Real processes that save in a loop and are killed by SIGKILL at random instants: nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from perdure import CheckpointStore
from perdure.errors import CheckpointNotFound

KEEP = 2

# A warm process that forks one worker a line, says its PID, and says `gone` when it has ended. The workers
# write `ack STEP` once a save has returned.
SERVER = """
import os, random, sys, types
import numpy as np
import perdure

{extra}

KEEP = {keep}

def state(step):
    rng = np.random.default_rng(step)
    made = {{"step": step, "w": rng.standard_normal(40), "text": str(step) * 50, "list": [step] * (step % 7)}}
    if step % 3 == 1:
        made["big"] = rng.standard_normal(150_000)
    if step % 3 == 2:
        made["fixed"] = np.arange(150_000.0)
    if step % 5 == 0:
        made["object"] = types.SimpleNamespace(value=step)  # only pickle can carry it
    return more(made, step)

def saves(root, step):
    store = perdure.CheckpointStore(root, keep=KEEP)
    while True:
        step += 1
        store.save("x", state(step), step=step)
        os.write(1, b"ack %d\\n" % step)

def run(root, step):
    random.seed(7); np.random.seed(7)
    data = {{"w": np.zeros(30), "seen": []}}
    with perdure.Run("x", data, store=root, keep=KEEP, policy=perdure.EverySteps(2)) as run:
        for epoch in run.range(4):
            order = np.random.permutation(6)
            for index in run.range(6):
                data["w"] += np.random.standard_normal(30) * order[index]
                data["seen"].append((epoch, int(order[index]), random.random()))
                run.step()
            for item in run.each(random.sample(range(5), 5)):
                data["w"] *= 1 + random.random() * item / 100
                run.step()
    os.write(1, b"done %s %d\\n" % (data["w"].tobytes().hex().encode(), hash(tuple(data["seen"]))))

def warm():
    # What is loaded on first use, loaded once and not in every worker.
    store = perdure.CheckpointStore("memory://warm")
    for step in range(1, 11):
        store.save("x", state(step))
        store.load("x")
    with perdure.Run("y", {{"a": np.zeros(3)}}, store=store) as run:
        run.step()

warm()
for line in sys.stdin:
    what, root, step = line.split()
    pid = os.fork()
    if pid == 0:
        globals()[what](root, int(step))
        os._exit(0)
    os.write(1, b"pid %d\\n" % pid)
    os.waitpid(pid, 0)
    os.write(1, b"gone\\n")
"""
NUMPY = "def more(made, step): return made"
TORCH = """
import torch
torch.set_num_threads(1)
def more(made, step):
    model = torch.nn.Linear(8, 8)
    with torch.no_grad():
        model.weight.fill_(step)
        model.bias.fill_(step)
    base = torch.full((20,), float(step))
    return made | {"model": model, "views": [base[:15], base[5:]], "half": base.to(torch.bfloat16)}
"""


class Server:
    """The warm process, and workers of it that live for a given time."""

    def __init__(self, extra: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER.format(extra=extra, keep=KEEP)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            text=True,
            bufsize=1,
        )

    def live(self, what: str, root: Path, step: int, seconds: float) -> list[str]:
        """Start a worker, kill it after a while, and return the lines it has written."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {root} {step}\n")
        lines: list[str] = []
        for line in self.process.stdout:
            word, _, rest = line.strip().partition(" ")
            if word == "pid":
                time.sleep(seconds)
                with suppress(ProcessLookupError):
                    os.kill(int(rest), signal.SIGKILL)
            elif word == "gone":
                return lines
            else:
                lines.append(line.strip())
        raise AssertionError("the server has died")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert self.process.wait(30) == 0


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(getattr(request, "param", NUMPY))
    yield server
    server.close()


def check(loaded: dict[str, Any], custom: bool = True) -> int:
    """The step of a state, after a look at everything in it."""
    step = loaded["step"]
    rng = np.random.default_rng(step)
    assert np.array_equal(loaded["w"], rng.standard_normal(40))
    assert loaded["text"] == str(step) * 50
    assert loaded["list"] == [step] * (step % 7)
    assert ("big" in loaded) == (step % 3 == 1)
    if step % 3 == 1:
        assert np.array_equal(loaded["big"], rng.standard_normal(150_000))
    assert ("fixed" in loaded) == (step % 3 == 2)
    if step % 3 == 2:
        assert np.array_equal(loaded["fixed"], np.arange(150_000.0))
    if custom and step % 5 == 0:
        assert loaded["object"].value == step
    if "model" in loaded:
        assert all((value == step).all() for value in loaded["model"].values())
        first, second = loaded["views"]
        assert (first == step).all()
        assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
        assert (loaded["half"].float() == loaded["half"][0].float()).all()
    return int(step)


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def kill_savers(server: Server, root: Path, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    store = CheckpointStore(root, keep=KEEP)
    acknowledged = seen = unswept = 0
    for number in range(kills):
        lines = server.live("saves", root, acknowledged, chance.uniform(0.0, 0.03))
        acknowledged = max([acknowledged, *(int(line.removeprefix("ack ")) for line in lines)])
        unswept = 0 if lines else unswept + 1
        # What is kept, what the save that was cut short left, and each one since the last that came to its end.
        assert len(files(root)) <= 3 * KEEP + 3 + 2 * unswept
        try:
            step = check(store.load("x"))
        except CheckpointNotFound:
            assert acknowledged == 0
            continue
        assert acknowledged <= step <= acknowledged + 1
        assert not store.catalog.versions("x").bad
        seen += bool(lines)
        acknowledged = step
        if number % 10 == 0:
            clean(store, root, step)
            acknowledged, unswept = step + 3, 0
    assert seen > kills // 10, "the workers were killed before they had done anything"


def clean(store: CheckpointStore, root: Path, step: int) -> None:
    """The next save leaves nothing but the checkpoints that are kept."""
    rng = np.random.default_rng(step + 3)
    made: dict[str, Any] = {"step": step + 3, "w": rng.standard_normal(40)}
    made |= {"text": str(step + 3) * 50, "list": [step + 3] * ((step + 3) % 7)}
    if (step + 3) % 3 == 1:
        made["big"] = rng.standard_normal(150_000)
    if (step + 3) % 3 == 2:
        made["fixed"] = np.arange(150_000.0)
    if (step + 3) % 5 == 0:
        made["object"] = SimpleNamespace(value=step + 3)
    store.save("x", made, step=step + 3)
    versions = store.catalog.versions("x")
    needed = {entry.key for entry in versions.manifests.values()}
    for entry in versions.manifests.values():
        needed |= {f"checkpoints/x/{pack}" for pack in store.catalog.manifest("x", entry).packs}
    assert len(versions.manifests) <= KEEP
    assert {str(path.relative_to(root)) for path in files(root)} == needed


def test_20_kills_of_a_saving_process(server: Server, tmp_path: Path) -> None:
    kill_savers(server, tmp_path / "store", 20, seed=1)


@pytest.mark.slow
def test_200_kills_of_a_saving_process(server: Server, tmp_path: Path) -> None:
    kill_savers(server, tmp_path / "store", 200, seed=2)


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_2000_kills_of_a_saving_process(server: Server, tmp_path: Path) -> None:
    kill_savers(server, tmp_path / "store", 2000, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("server", [TORCH], indirect=True)
def test_kills_of_a_process_that_saves_torch_state(server: Server, tmp_path: Path) -> None:
    kill_savers(server, tmp_path / "store", 30, seed=4)


def kill_runs(server: Server, tmp_path: Path, runs: int, seed: int) -> None:
    chance = random.Random(seed)
    (expected,) = server.live("run", tmp_path / "undisturbed", 0, 3.0)
    kills = 0
    for number in range(runs):
        for _ in range(400):
            lines = server.live("run", tmp_path / f"run-{number}", 0, chance.uniform(0.005, 0.06))
            if lines:
                break
            kills += 1
        assert lines == [expected]
    assert kills > runs


def test_a_run_killed_at_random_ends_like_one_that_was_not(server: Server, tmp_path: Path) -> None:
    kill_runs(server, tmp_path, 2, seed=5)


@pytest.mark.slow
def test_runs_killed_at_random_end_like_one_that_was_not(server: Server, tmp_path: Path) -> None:
    kill_runs(server, tmp_path, 15, seed=6)


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_many_runs_killed_at_random_end_like_one_that_was_not(server: Server, tmp_path: Path) -> None:
    kill_runs(server, tmp_path, 150, seed=7)
