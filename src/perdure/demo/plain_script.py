"""A training script in one process, which goes on where it stopped: the work of `--no-ray`.

    python -m perdure.demo.plain_script STORE DIARY METER RESULT USE CACHE EPOCHS SEED

Beside the training it writes down, for the one who kills it, where it is and what happened.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from perdure import Run
from perdure.demo import data, model
from perdure.demo.killer import Meter
from perdure.errors import MissingExtraError
from perdure.events import Event, listening

try:
    import torch
except ImportError as error:
    raise MissingExtraError.of("torch", "demo") from error

from torch.utils.data import DataLoader, TensorDataset


class Diary:
    """Facts as lines of JSON, appended whole, so that a SIGKILL leaves all earlier ones."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, what: str, moment: float | None = None, **facts: Any) -> None:
        line = json.dumps({"what": what, "time": time.time() if moment is None else moment, **facts})
        os.write(self._file, line.encode() + b"\n")

    def on_event(self, event: Event) -> None:
        if event.kind == "save.committed":
            facts = {key: event.data[key] for key in ("version", "step", "seconds", "nbytes")}
            self.note("saved", event.time - facts["seconds"], **facts)


def train(digits: data.Digits, store: Path, epochs: int, seed: int, diary: Diary, meter: Meter) -> dict[str, Any]:
    """Train to the end, from wherever an earlier process was killed."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = model.network()
    optimizer = model.optimizer_of(network)
    loader = DataLoader(TensorDataset(*model.tensors(digits.images, digits.labels)), model.BATCH, shuffle=True)
    batches = len(loader)
    diary.note("opening", batches=batches)
    with Run("mnist", {"model": network, "optimizer": optimizer}, store=store) as run:
        if run.resumed_from is not None:
            diary.note("resumed", version=run.resumed_from.version, step=run.steps)
        for epoch in run.range(epochs):
            here = None
            for images, labels in run.each(loader):
                batch = run.steps - epoch * batches
                if here != epoch:
                    diary.note("began", epoch=epoch)
                    here = epoch
                meter.tick(epoch, batch, batches)
                loss, _ = model.train_batch(network, optimizer, images, labels)
                if run.step(loss=loss) is not None:
                    diary.note("decided", step=run.steps, **dataclasses.asdict(run.decisions[-1]))
            diary.note("ended", epoch=epoch)
        meter.tick(epochs - 1, batches, batches)
    return {
        "weights": model.digest(network.state_dict()),
        "optimizer": model.digest(optimizer.state_dict()),
        "accuracy": model.evaluate(network.state_dict(), digits),
    }


def main(arguments: list[str]) -> None:
    store, diary, meter, result, use, cache, epochs, seed = arguments
    digits = data.load(use, Path(cache))
    written = Diary(Path(diary))
    with listening(written.on_event):
        outcome = train(digits, Path(store), int(epochs), int(seed), written, Meter(Path(meter)))
    Path(result).write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(sys.argv[1:])
