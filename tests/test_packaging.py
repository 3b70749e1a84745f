"""The wheel works in an environment with nothing else, and says which extra is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
import sys
import numpy as np
import perdure
from perdure.errors import MissingExtraError

store = perdure.CheckpointStore("store")
store.save("k", {"w": np.arange(3), "f": lambda x: x + 1})
assert store.load("k")["f"](1) == 2

for extra, action in {
    "zstd": lambda: perdure.CheckpointStore("zstd", compression="zstd").save("k", {"w": np.zeros(999)}),
    "torch": lambda: __import__("perdure.state.torch"),
}.items():
    try:
        action()
    except MissingExtraError as error:
        assert f"pip install 'perdure[{extra}]'" in str(error), error
    else:
        raise SystemExit(f"{extra} is not missed")
print("fine")
"""


@pytest.mark.slow
def test_wheel_in_a_bare_environment(tmp_path: Path) -> None:
    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([str(part) for part in command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("perdure-*.whl")
    run(sys.executable, "-m", "venv", "bare")
    run("bare/bin/python", "-m", "pip", "install", "-q", wheel)
    assert run("bare/bin/python", "-c", SCRIPT).stdout.strip() == "fine"
    assert "restore" in run("bare/bin/perdure", "--help").stdout
    demo = subprocess.run(["bare/bin/perdure", "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert demo.returncode == 2
    assert "pip install 'perdure[demo]'" in demo.stderr
    run("bare/bin/perdure", "verify", "store")
