"""The docstring of the package, the import contract and the disk tell one story; imports stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import perdure

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "perdure"
HEAVY = (
    "torch", "ray", "tensorflow", "lightning", "fastapi", "sqlalchemy", "fsspec", "numpy", "rich", "typer",
    "matplotlib", "sklearn", "zstandard", "cloudpickle", "jax",
)  # fmt: skip
LONGEST_FILE = 400


def rooms() -> set[str]:
    """The top-level files and folders of the package."""
    files = {path.stem for path in PACKAGE.glob("*.py")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return (files | folders) - {"__init__"}


def layers() -> list[set[str]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c.get("exhaustive"))
    return [{name.strip() for name in layer.split("|")} for layer in contract["layers"]]


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_layer_and_every_layer_its_room() -> None:
    assert set().union(*layers()) == rooms()


def test_the_path_in_the_docstring_is_on_disk_and_in_order() -> None:
    text = perdure.__doc__ or ""
    save = re.search(r"live objects -> (.*?)\s+\(save\)", text)
    restore = re.search(r"live objects <- (.*?)\s+\(restore\)", text)
    assert save and restore
    saving = save[1].split(" -> ")
    assert saving == ["state", "capture", "encode", "storage", "catalog"]
    assert restore[1].split(" <- ") == ["state", "restore", "encode", "storage", "catalog"]
    mentioned = set(re.findall(r"`(\w+)`", text))
    assert mentioned <= rooms(), "the docstring names a room that is not there"
    assert set(saving) | {"restore"} <= mentioned
    depth = {room: number for number, layer in enumerate(layers()) for room in layer}
    assert depth["restore"] < depth["catalog"] < depth["capture"] < depth["state"]


def test_the_table_of_layers_in_contributing_is_the_contract() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))
    assert rooms() - {"__main__"} <= named


def test_public_names_are_fixed() -> None:
    assert perdure.__all__ == sorted(perdure.__all__)
    assert set(perdure.__all__) == {
        "AdaptiveCheckpointController", "Checkpoint", "CheckpointStore", "EverySeconds", "EverySteps",
        "OverheadCap", "PerdureError", "Run", "Threshold", "__version__", "register",
    }  # fmt: skip
    for name in perdure.__all__:
        assert getattr(perdure, name).__doc__, f"{name} has no docstring"
    assert set(perdure.__all__) - {"__version__"} == set(perdure._ROOMS)


@pytest.mark.parametrize("module", ["perdure", "perdure.cli", "perdure.testing"])
def test_imports_are_light(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    allowed = {"typer", "rich"} if module == "perdure.cli" else set()
    assert set(loaded) <= allowed


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_opens_with_its_job_and_stays_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "the file does not say what it is for"
    assert docstring.splitlines()[0].endswith((".", "?"))


def test_only_config_reads_the_environment() -> None:
    readers = {path.name for path in sources() if re.search(r"os\.(environ|getenv)", path.read_text())}
    assert readers <= {"config.py"}


def test_no_assert_and_no_print_outside_of_tests() -> None:
    for path in sources():
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path}: an assert vanishes under -O"


def test_links_of_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_test_that_the_guarantees_name_exists() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
