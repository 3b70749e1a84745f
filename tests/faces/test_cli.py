"""Every command on real stores: what it prints, what it leaves with, and that listing never runs anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import perdure
import perdure.demo
from perdure.cli import app
from perdure.config import VERSION

COMMANDS = ("ls", "show", "verify", "restore", "demo")
HEAVY = ("torch", "ray", "numpy", "tensorflow", "matplotlib", "cloudpickle", "zstandard")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="perdure")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_json(*arguments: object, exit_code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout)


def perdure_process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perdure", *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=60, check=False, **options)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    """Three versions of `net`, one of them with a pack of its own, and one of `notes`."""
    store = perdure.CheckpointStore(tmp_path / "store")
    weights = np.arange(300_000.0)
    for step in range(3):
        bias = np.full(4, step, np.float32)
        state = {"weights": weights, "bias": bias, "epoch": step, "name": "a"}
        store.save("net", state, step=step, metadata={"metrics": {"loss": 1.5 - step / 2}})
    store.save("notes", {"tags": ["x", "y"], "day": date(2026, 1, 2), "rate": float("nan"), "raw": b"\x00\x01"})
    return tmp_path / "store"


def manifest(where: Path, name: str, version: int) -> Path:
    return where / "checkpoints" / name / f"{version:010d}.manifest"


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


class Armed:
    """Unpickling one makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_the_help_lists_every_command() -> None:
    text = run("--help").stdout
    assert all(f"  {command} " in text for command in COMMANDS)
    assert "74 checkpoint or transfer failed" in text
    for command in COMMANDS:
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert "--json" in shown.stdout


def test_the_version() -> None:
    assert perdure_process("--version", capture_output=True).stdout == f"perdure {VERSION}\n"


def test_starting_loads_nothing_heavy() -> None:
    code = f"import sys, perdure.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_names_are_completed(where: Path) -> None:
    asked = {"_PERDURE_COMPLETE": "complete_bash", "COMP_WORDS": f"perdure show {where} no", "COMP_CWORD": "3"}
    done = perdure_process(env={**os.environ, **asked}, capture_output=True)
    assert done.stdout.split() == ["notes"]


def test_ls_shows_the_newest_of_each_name(where: Path) -> None:
    rows = run_json("ls", where)
    assert [(row["name"], row["version"], row["step"], row["damaged"]) for row in rows] == [
        ("net", 3, 2, None),
        ("notes", 1, None, None),
    ]
    assert rows[0]["nbytes"] == 8 * 300_000 + 16
    assert rows[0]["written"] == 16
    line = run("ls", where).stdout.splitlines()[1]
    assert line.split()[:3] == ["net", "3", "2"]
    assert "2.3 MiB" in line
    assert "loss=0.5" in line


def test_ls_of_one_name_and_of_all_versions(where: Path) -> None:
    assert [row["version"] for row in run_json("ls", where, "--name", "net", "--all-versions")] == [3, 2, 1]
    assert run_json("ls", where, "--name", "no", exit_code=1)["error"]["kind"] == "not-found"


def test_ls_finds_the_default_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = run("ls")
    assert missing.exit_code == 1
    assert "error: there is neither ./perdure-store nor ./ray_ckpts here\nhint: " in missing.stderr
    perdure.CheckpointStore("ray_ckpts").save("second", 1)
    assert run_json("ls")[0]["name"] == "second"
    perdure.CheckpointStore("perdure-store").save("first", 1)
    assert run_json("ls")[0]["name"] == "first"


def test_a_store_that_is_not_there_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    assert run_json("ls", tmp_path / "typo", exit_code=1)["error"]["kind"] == "not-found"
    assert "no checkpoints in" in run("ls", tmp_path).stdout
    assert run_json("verify", tmp_path) == []


def test_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    perdure.CheckpointStore(tmp_path).save("\x1b[2Jevil\n[red]", 1)
    text = run("ls", tmp_path).stdout
    assert "\x1b" not in text
    assert "\\x1b[2Jevil\\n[red]" in text


def test_ls_shows_what_is_damaged(where: Path) -> None:
    flip(manifest(where, "net", 3), 200)
    newest, older, *_ = run_json("ls", where)
    assert (newest["version"], older["version"], older["damaged"]) == (3, 2, None)
    assert "digest does not match" in newest["damaged"]
    assert "damaged: " in run("ls", where).stdout


def test_show(where: Path) -> None:
    facts = run_json("show", where, "net")
    leaves = {leaf["path"]: leaf for leaf in facts["leaves"]}
    assert set(leaves) == {"weights", "bias"}
    assert leaves["weights"]["dtype"] == "<f8"
    assert leaves["weights"]["shape"] == [300_000]
    assert leaves["weights"]["pack"] == facts["packs"][0]["pack"]
    assert facts["packs"][0]["shared_with"] == [2, 1]
    assert facts["values"] == {"epoch": 2, "name": "a"}
    assert facts["info"]["pid"] == os.getpid()
    assert (facts["signature"], facts["needs_trust"]) == ("none", [])
    assert [one["version"] for one in facts["versions"]] == [3, 2, 1]
    text = run("show", where, "net", "--version", "1").stdout
    assert "version:     1" in text
    assert "[300000]" in text
    assert "no: arrays and plain data only" in text


def test_show_tells_why_a_run_saved(tmp_path: Path) -> None:
    with perdure.Run("job", {"w": np.zeros(3)}, store=tmp_path, policy=perdure.EverySteps(2)) as job:
        for _ in job.range(2):
            job.state["w"] += 1
            job.step()
    text = run("show", tmp_path, "job", "--version", 1).stdout
    assert "because:     2 of 2 steps since the last checkpoint" in text
    assert "of the run itself" in text


def test_show_what_is_not_there_or_not_readable(where: Path) -> None:
    assert run("show", where, "no").exit_code == 1
    assert run("show", where, "net", "--version", "9").exit_code == 1
    flip(manifest(where, "net", 3), 200)
    assert run("show", where, "net", "--version", "3").exit_code == 74
    assert run_json("show", where, "net")["version"] == 2


def test_show_names_a_pack_that_is_missing(where: Path) -> None:
    (pack,) = (where / "checkpoints" / "net" / "packs").iterdir()
    pack.unlink()
    assert "MISSING" in run("show", where, "net").stdout


def test_verify_finds_damage_and_takes_back_what_proves_whole(where: Path) -> None:
    assert [result["ok"] for result in run_json("verify", where)] == [True] * 4
    (pack,) = (where / "checkpoints" / "net" / "packs").iterdir()
    flip(pack, 100_000)
    results = {(one["name"], one["version"]): one for one in run_json("verify", where, exit_code=74)}
    assert results["notes", 1]["ok"]
    assert all(pack.name in results["net", version]["why"] for version in (1, 2, 3))
    assert all("set aside" in line for line in run("ls", where, "--name", "net").stdout.splitlines()[1:])
    flip(pack, 100_000)
    again = run("verify", where, "net", "--version", "2")
    assert again.exit_code == 0
    assert "ok  net version 2: 2.3 MiB, taken back" in again.stdout
    assert [row["version"] for row in run_json("ls", where, "--name", "net") if not row["damaged"]] == [2]


def test_verify_what_is_not_there(where: Path) -> None:
    assert run("verify", where, "no").exit_code == 1
    assert run("verify", where, "net", "--version", "9").exit_code == 1


def test_a_name_that_no_manifest_can_tell_hides_nothing_else(where: Path) -> None:
    perdure.CheckpointStore(where).save("long" * 100, 1)
    (folder,) = (where / "checkpoints").glob("long*")
    flip(next(folder.glob("*.manifest")), 150)
    listed = run("ls", where)
    assert listed.exit_code == 0
    assert "net" in listed.stdout
    assert "its name is unknown" in listed.stderr
    assert sum(not one["ok"] for one in run_json("verify", where, exit_code=74)) == 1


@pytest.mark.parametrize("planted", ["unsigned", "foreign"])
def test_a_planted_pickle_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    marker = tmp_path / "it ran"
    perdure.CheckpointStore(tmp_path / "store").save("evil", {"x": Armed(marker)})
    if planted == "unsigned":
        path = manifest(tmp_path / "store", "evil", 1)
        header, _, rest = path.read_bytes().partition(b"\n")
        fields = {key: value for key, value in json.loads(header).items() if key not in ("key", "mac")}
        path.write_bytes(json.dumps(fields).encode() + b"\n" + rest)
    monkeypatch.setenv("PERDURE_CONFIG_DIR", str(tmp_path / "of somebody else"))
    store = tmp_path / "store"
    assert run("ls", store).exit_code == 0
    assert run_json("show", store, "evil")["needs_trust"] == ["x"]
    assert "YES" in run("show", store, "evil").stdout
    assert run("verify", store).exit_code == 0
    refused = run("restore", store, "evil", tmp_path / "out.pt")
    assert refused.exit_code == 1
    assert "--trust" in refused.stderr
    assert not marker.exists()
    assert not (tmp_path / "out.pt").exists()
    # Only now, and so the pickle was armed all the time.
    run("restore", store, "evil", tmp_path / "out.json", "--trust")
    assert marker.exists()


def test_restore_to_npz(where: Path, tmp_path: Path) -> None:
    done = run_json("restore", where, "net", tmp_path / "net.npz", "--step", "1")
    assert (done["version"], done["arrays"], done["left_out"]) == (2, 2, [])
    with np.load(tmp_path / "net.npz") as arrays:
        assert set(arrays) == {"weights", "bias", "epoch", "name"}
        assert np.array_equal(arrays["weights"], np.arange(300_000.0))
        assert arrays["bias"].dtype == np.float32
        assert (arrays["epoch"], str(arrays["name"])) == (1, "a")


def test_restore_to_npz_names_what_it_leaves_out(where: Path, tmp_path: Path) -> None:
    done = run("restore", where, "notes", tmp_path / "notes.npz")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == ["left out: day (date)", "left out: raw (bytes)"]


def test_restore_of_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="install it with: pip install 'perdure[torch]'")
    state = {"model": {"w": torch.linspace(0, 1, 5, dtype=torch.bfloat16)}, "b": torch.arange(3), "lr": 0.1}
    perdure.CheckpointStore(tmp_path / "store").save("net", state)
    done = run_json("restore", tmp_path / "store", "net", tmp_path / "net.npz")
    assert done["notes"] == ["model/w: bfloat16 as float32, which holds all its values"]
    with np.load(tmp_path / "net.npz") as arrays:
        assert np.array_equal(arrays["model/w"], state["model"]["w"].float().numpy())
        assert arrays["b"].dtype == np.int64
    assert run("restore", tmp_path / "store", "net", tmp_path / "net.pt").exit_code == 0
    loaded = torch.load(tmp_path / "net.pt", weights_only=True)
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert (loaded["model"]["w"].dtype, loaded["lr"]) == (torch.bfloat16, 0.1)


def test_restore_to_json(where: Path, tmp_path: Path) -> None:
    assert run("restore", where, "notes", tmp_path / "notes.json").exit_code == 0
    notes = json.loads((tmp_path / "notes.json").read_text())
    assert notes == {"tags": ["x", "y"], "day": "2026-01-02", "rate": "nan", "raw": "AAE="}
    refused = run("restore", where, "net", tmp_path / "net.json")
    assert refused.exit_code == 2
    assert "weights, bias" in refused.stderr
    assert run("restore", where, "net", tmp_path / "net.json", "--arrays", "--only", "bias").exit_code == 0
    assert json.loads((tmp_path / "net.json").read_text()) == {"bias": [2.0, 2.0, 2.0, 2.0]}


def test_restore_refuses_before_it_touches_anything(where: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.npz"
    taken.write_text("precious")
    assert run("restore", where, "net", taken).exit_code == 2
    assert run_json("restore", where, "no", taken, "--force", exit_code=1)["error"]["kind"] == "not-found"
    assert run("restore", where, "net", taken, "--only", "typo", "--force").exit_code == 2
    assert taken.read_text() == "precious"
    unknown = run("restore", where, "net", tmp_path / "net.h5")
    assert unknown.exit_code == 2
    assert ".npz, .pt or .json" in unknown.stderr
    assert run("restore", where, "net", tmp_path / "no folder" / "net.npz").exit_code == 74
    assert run("restore", where, "net", taken, "--force").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "taken.npz"]


def test_restore_goes_back_to_the_older_one_and_says_so(where: Path, tmp_path: Path) -> None:
    flip(manifest(where, "net", 3), 200)
    done = run("restore", where, "net", tmp_path / "net.npz")
    assert done.exit_code == 0
    assert "net version 2, step 1" in done.stdout
    assert "warning: net version 3 is damaged and was set aside" in done.stderr


def test_demo_is_called_with_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(perdure.demo, "run_demo", lambda **given: calls.append(given) or 1)
    assert run("demo", "--no-ray", "--out", tmp_path, "--epochs", 2, "--kills", 0, "--seed", 7).exit_code == 1
    assert calls == [{"use_ray": False, "out": tmp_path, "epochs": 2, "kills": 0, "seed": 7, "json": False}]


def test_usage_errors_leave_with_2(where: Path) -> None:
    assert run("ls", "--no-such-option").exit_code == 2
    assert run("show", where).exit_code == 2
    assert run("show", where, "net", "--version", "0").exit_code == 2


def test_errors_of_ours_are_not_hidden(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("perdure.cli.ls.open_store", broken)
    with pytest.raises(ZeroDivisionError):
        run("ls", where)


def test_an_interrupt_leaves_with_130(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("perdure.cli.ls.open_store", interrupted)
    assert run("ls", where).exit_code == 130


def test_a_reader_that_has_enough_is_no_error(where: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = perdure_process("ls", where, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
