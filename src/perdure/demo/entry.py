"""The demo from end to end: data, both jobs, the picture, the report, the verdict."""

from __future__ import annotations

import json as jsonlib
import random
import sys
import tempfile
from pathlib import Path

from perdure.config import Settings
from perdure.errors import UsageError
from perdure.storage import LocalStorage


def run_demo(
    *, use_ray: bool, out: Path, epochs: int = 8, kills: int = 2, seed: int | None = None, json: bool = False
) -> int:
    """Train MNIST with `kills` SIGKILLs and again without, and show that both end the same; the exit status.

    0 when all kills hit, both ended with the same bits, and the accuracy is at least 90 %; else 1. All files go
    under `out`: a new folder for each run, `timeline.png` and `report.json`. `seed` makes weights, order of the
    data and moments of the kills; without one it is drawn. With `json` the report goes to standard output.
    """
    # Here and not above: nobody who imports the demo's name has to wait for torch, or to have it.
    from perdure.demo import data, killer, model, picture, show
    from perdure.demo.plan import Plan
    from perdure.demo.report import Report

    if epochs < 1 or kills < 0:
        raise UsageError(f"epochs={epochs}, kills={kills}", hint="give at least 1 epoch and 0 kills")
    if use_ray:
        from perdure.demo.ray_job import run
    else:
        from perdure.demo.plain_job import run
    seed = random.SystemRandom().randrange(10_000) if seed is None else seed
    kind = "ray" if use_ray else "plain"
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=out))
    cache = Settings.read().cache_dir / "mnist"
    with show.Narrator(sys.stderr if json else sys.stdout) as tell:
        digits = data.load("best", cache, tell.say)
        tell.say(f"data: {digits.source}")
        tell.say(f"seed {seed}; everything goes to {folder}")
        plan = Plan(digits.use, cache, epochs, seed, killer.moments(kills, epochs, seed))
        killed, undisturbed, same = run(plan, folder, tell)
    report = Report(
        kind=kind,
        data=digits.source,
        parameters=model.PARAMETERS,
        epochs=epochs,
        seed=seed,
        kills_wanted=kills,
        killed=killed,
        undisturbed=undisturbed,
        same=same,
        picture=str(out / "timeline.png"),
    )
    files = LocalStorage(out)
    files.put("timeline.png", [picture.draw(report)])
    files.put("report.json", [jsonlib.dumps(report.plain(), indent=2).encode()])
    if json:
        sys.stdout.write(jsonlib.dumps(report.plain(), indent=2) + "\n")
    else:
        show.show(report, sys.stdout)
    return 1 if report.faults else 0
