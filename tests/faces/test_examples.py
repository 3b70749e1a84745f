"""The examples do what they say: killed by SIGKILL at random points and started again, they end the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAIN = [
    "plain_numpy",
    pytest.param("plain_torch", marks=pytest.mark.slow),
    pytest.param("plain_sklearn", marks=pytest.mark.slow),
]
NEEDS = {"plain_torch": "torch", "plain_sklearn": "sklearn", "ray_pipeline": "ray", "ray_mnist": "ray"}
KILLS = 3


def start(name: str, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    script = [sys.executable, str(EXAMPLES / f"{name}.py")]
    return subprocess.Popen(script, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out


def digest(out: str) -> str:
    (found,) = re.findall(r"^digest ([0-9a-f]{64})$", out, re.MULTILINE)
    return str(found)


def kill_after(process: subprocess.Popen[str], lines: int, seconds: float) -> int:
    """Kill it a moment after it has printed so many lines; its exit status."""
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        for _ in range(lines):
            assert process.stdout.readline(), process.stderr.read()
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        return process.wait()


@pytest.mark.parametrize("name", PLAIN)
def test_a_script_that_is_killed_ends_as_if_it_never_was(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    undisturbed = digest(finish(start(name, tmp_path / "undisturbed")))
    dice = random.Random(name)
    hits = 0
    for _ in range(KILLS):
        status = kill_after(start(name, tmp_path / "killed"), dice.randint(1, 2), dice.uniform(0, 0.1))
        hits += status == -signal.SIGKILL
    out = finish(start(name, tmp_path / "killed"))
    assert hits == KILLS
    assert digest(out) == undisturbed
    assert out.count("\n") < 2 + KILLS * 4, "it began anew instead of going on"


@pytest.mark.parametrize("name", ["plain_numpy", "plain_torch", "plain_sklearn"])
def test_at_most_five_lines_are_added(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    code = text.split('"""')[2]
    marked = [line for line in code.splitlines() if "# perdure: " in line]
    assert 1 <= len(marked) <= 5
    for line in code.splitlines():
        if "perdure." in line or "run." in line or "import perdure" in line:
            assert line in marked, f"this line is perdure's and not marked: {line}"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_says_how_to_run_it(path: Path) -> None:
    assert f"python examples/{path.name}" in path.read_text().split('"""')[1]


@pytest.mark.slow
def test_the_simulated_pipeline_redoes_what_a_real_kill_took(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = finish(start("ray_pipeline", tmp_path))
    assert "[FAILURE] epoch 1: WorkerCrashedError" in out
    assert "[RECOVERY] a new task goes on with epoch 1" in out
    assert "all 3 epochs done, none skipped" in out
    assert (tmp_path / "ray_ckpts" / "adaptive_decisions.json").exists()
