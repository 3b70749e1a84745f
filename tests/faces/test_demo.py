"""The main job, small: real kills, the same weights, and the files it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for library in ("torch", "matplotlib", "sklearn"):
    pytest.importorskip(library, reason="install it with: pip install 'perdure[demo]'")

pytestmark = pytest.mark.slow

# In a process of its own, so that its Ray is its own; and with the digits that need no network.
DEMO = """
import sys
from pathlib import Path
from perdure.demo import fetch, run_demo
fetch.SOURCES.clear()
sys.exit(run_demo(use_ray={ray}, out=Path("out"), epochs={epochs}, kills={kills}, seed=7, json={json}))
"""


def demo(folder: Path, ray: bool, epochs: int = 3, kills: int = 2, json: bool = True) -> tuple[int, str, str]:
    code = DEMO.format(ray=ray, epochs=epochs, kills=kills, json=json)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=280)
    return done.returncode, done.stdout, done.stderr


def check(report: dict[str, Any], out: Path) -> None:
    killed, undisturbed = report["killed"], report["undisturbed"]
    assert report["faults"] == [] and report["same"] is True
    assert report["parameters"] == 109_386
    assert killed["weights"] == undisturbed["weights"]
    assert killed["optimizer"] == undisturbed["optimizer"]
    assert killed["accuracy"] == undisturbed["accuracy"] >= 0.9
    assert not undisturbed["kills"] and not undisturbed["recoveries"]
    assert len({kill["pid"] for kill in killed["kills"]}) == len(killed["kills"]) == 2
    assert all(0 <= kill["batch"] < kill["batches"] for kill in killed["kills"])
    assert len(killed["recoveries"]) == 2
    assert all(recovery["version"] for recovery in killed["recoveries"])
    assert any(bar["fate"] == "killed" for bar in killed["bars"])
    assert (out / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "report.json").read_text()) == report


def test_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="install it with: pip install 'perdure[ray]'")
    status, out, errors = demo(tmp_path, ray=True)
    assert status == 0, errors
    report = json.loads(out)
    check(report, tmp_path / "out")
    killed = report["killed"]
    assert {kill["seen_as"] for kill in killed["kills"]} == {"WorkerCrashedError"}
    assert killed["budget"][0] <= killed["budget"][1]
    first, last = killed["thresholds"][0][1], killed["thresholds"][-1][1]
    assert first == 0.35 and last != first, "each recovery is a feedback"
    decisions = json.loads((Path(killed["store"]) / "adaptive_decisions.json").read_text())
    assert [entry["task"] for entry in decisions] == [row["task"] for row in killed["decisions"]]
    assert list((tmp_path / "out").glob("ray-*/ray.log"))


def test_in_one_process(tmp_path: Path) -> None:
    status, out, errors = demo(tmp_path, ray=False)
    assert status == 0, errors
    report = json.loads(out)
    check(report, tmp_path / "out")
    assert {kill["seen_as"] for kill in report["killed"]["kills"]} == {"exit status -9"}


def test_what_it_prints_and_that_an_older_run_does_not_confuse_it(tmp_path: Path) -> None:
    (tmp_path / "out" / "plain-old").mkdir(parents=True)
    (tmp_path / "out" / "report.json").write_text("left over")
    status, out, errors = demo(tmp_path, ray=False, epochs=1, kills=1, json=False)
    assert status == 0, errors
    for words in ("SIGKILL to process", "Decisions", "Kills and recoveries", "Time saved", "bit for bit"):
        assert words in out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["ok"] is True
    assert (tmp_path / "out" / "plain-old").exists()


def test_another_end_than_promised_is_a_failure() -> None:
    from perdure.demo.report import Job, Report

    def job(accuracy: float) -> Job:
        return Job("", 1.0, "", (), (), (), (), (), (), None, accuracy, "", "")

    def faults(same: bool, accuracy: float, kills: int) -> list[str]:
        return Report("ray", "", 1, 1, 1, kills, job(accuracy), job(0.95), same, "").faults

    assert faults(True, 0.90, 0) == []
    assert len(faults(False, 0.95, 0)) == 1
    assert len(faults(True, 0.899, 0)) == 1
    assert len(faults(True, 0.95, 2)) == 1
