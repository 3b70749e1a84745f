"""`python -m perdure.demo [--no-ray]`: the demo with its defaults."""

from __future__ import annotations

import sys
from pathlib import Path

from perdure.demo import run_demo

if __name__ == "__main__":
    sys.exit(run_demo(use_ray="--no-ray" not in sys.argv[1:], out=Path("demo-out")))
