"""`perdure demo`: a training that is killed and ends as if it never was."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure.cli.common import Json


def demo(
    no_ray: Annotated[bool, typer.Option("--no-ray", help="One process that is started again, without Ray.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")] = Path("demo-out"),
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs to train.")] = 8,
    kills: Annotated[int, typer.Option("--kills", min=0, help="How often to kill the worker.")] = 2,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of weights, data and the moments of the kills; drawn if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on real digits, kill the worker, recover, and compare.

    The worker is killed with SIGKILL; the end is compared with a run without failures, bit for bit.
    """
    from perdure.demo import run_demo

    raise typer.Exit(run_demo(use_ray=not no_ray, out=out, epochs=epochs, kills=kills, seed=seed, json=as_json))
