"""The one place that reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator sets per machine; everything else is an argument with a default.

    `PERDURE_SIGNING_KEY` (hexadecimal) or `PERDURE_SIGNING_KEY_FILE` share one key between machines;
    `PERDURE_CONFIG_DIR` and `PERDURE_CACHE_DIR` move the two directories.
    """

    config_dir: Path
    cache_dir: Path
    signing_key: str | None
    signing_key_file: Path | None

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        home = Path(environ.get("HOME") or "~").expanduser()
        config = environ.get("XDG_CONFIG_HOME") or str(home / ".config")
        cache = environ.get("XDG_CACHE_HOME") or str(home / ".cache")
        key_file = environ.get("PERDURE_SIGNING_KEY_FILE")
        return cls(
            config_dir=Path(environ.get("PERDURE_CONFIG_DIR") or Path(config) / "perdure"),
            cache_dir=Path(environ.get("PERDURE_CACHE_DIR") or Path(cache) / "perdure"),
            signing_key=environ.get("PERDURE_SIGNING_KEY") or None,
            signing_key_file=Path(key_file) if key_file else None,
        )
