"""What every test gets: an environment in which nothing of the machine's own settings is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    # Beside what the test itself makes in tmp_path, and made only if the code under test makes them.
    monkeypatch.setenv("PERDURE_CONFIG_DIR", str(tmp_path / ".perdure-config"))
    monkeypatch.setenv("PERDURE_CACHE_DIR", str(tmp_path / ".perdure-cache"))
