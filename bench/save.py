"""Save and restore beside torch.save and safetensors, as multiples of a memcpy and of a raw durable write."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from rich.console import Console
from rich.table import Table

import perdure


def median(action: Callable[[int], object], rounds: int) -> float:
    seconds = []
    for number in range(rounds):
        started = time.perf_counter()
        action(number)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def fsync(path: Path) -> None:
    for target in (path, path.parent):
        file = os.open(target, os.O_RDONLY)
        os.fsync(file)
        os.close(file)


def raw_write(path: Path, data: memoryview) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    done = 0
    while done < len(data):
        done += os.write(file, data[done:])
    os.fsync(file)
    os.close(file)
    fsync(path.parent)


def touch(state: dict[str, torch.Tensor]) -> None:
    """Change every tensor, so that nothing is shared with the save before."""
    for tensor in state.values():
        tensor.view(-1)[0] += 1


def measure(mib: int, rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    count = 32
    state = {f"layer{i}": torch.randn(mib * 1024 * 256 // count) for i in range(count)}
    live = {key: torch.zeros_like(value) for key, value in state.items()}
    flat = torch.cat(list(state.values()))
    target = torch.empty_like(flat).zero_()
    results: dict[str, dict[str, float]] = {}
    results["memcpy (M)"] = {"save": median(lambda n: target.copy_(flat), rounds)}
    data = memoryview(flat.view(torch.uint8).numpy())
    results["raw write + fsync (W)"] = {"save": median(lambda n: raw_write(folder / f"raw{n % 2}", data), rounds)}

    def torch_save(number: int) -> None:
        touch(state)
        torch.save(state, folder / f"t{number % 3}.pt")
        fsync(folder / f"t{number % 3}.pt")

    def torch_load(number: int) -> None:
        for key, value in torch.load(folder / "t0.pt").items():
            live[key].copy_(value)

    results["torch.save + fsync"] = {"save": median(torch_save, rounds), "restore": median(torch_load, rounds)}

    def st_save(number: int) -> None:
        touch(state)
        safetensors.torch.save_file(state, folder / f"s{number % 3}.safetensors")
        fsync(folder / f"s{number % 3}.safetensors")

    def st_load(number: int) -> None:
        for key, value in safetensors.torch.load_file(folder / "s0.safetensors").items():
            live[key].copy_(value)

    results["safetensors + fsync"] = {"save": median(st_save, rounds), "restore": median(st_load, rounds)}
    store = perdure.CheckpointStore(folder / "store")

    def our_save(number: int) -> None:
        touch(state)
        store.save("state", state)

    results["perdure"] = {
        "save": median(our_save, rounds),
        "restore": median(lambda n: store.load("state", into=live), rounds),
        "stall": float(store.list("state")[0].info["stall"]),
    }
    results["perdure, nothing changed"] = {"save": median(lambda n: store.save("state", state), rounds)}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    options = parser.parse_args()
    options.out.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=options.out))
    try:
        results = measure(options.mib, options.rounds, folder)
    finally:
        shutil.rmtree(folder)
    memcpy, write = results["memcpy (M)"]["save"], results["raw write + fsync (W)"]["save"]
    table = Table(
        "what", "save, s", "x W", "restore, s", "x M", title=f"{options.mib} MiB, median of {options.rounds}"
    )
    for name, row in results.items():
        restore = row.get("restore")
        cells = (f"{restore:.3f}", f"{restore / memcpy:.1f}") if restore else ("", "")
        table.add_row(name, f"{row['save']:.3f}", f"{row['save'] / write:.2f}", *cells)
    Console().print(table)
    path = options.out / "save.json"
    path.write_text(json.dumps({"mib": options.mib, "rounds": options.rounds, "results": results}, indent=2))
    Console().print(f"written to {path}")


if __name__ == "__main__":
    main()
