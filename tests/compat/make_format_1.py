"""How `format-1` was written, with perdure 0.1.0, before its first release."""

import datetime as dt
from pathlib import Path

import numpy as np

import perdure

store = perdure.CheckpointStore(Path(__file__).parent / "format-1", objects="refuse")
store.save(
    "small/ünïcode",
    {
        "when": dt.datetime(2026, 11, 22, 12, 30, tzinfo=dt.UTC),
        "nested": {1: (None, True, b"\x00\xff"), "nan": [float("inf")]},
        "w": np.arange(6).reshape(2, 3),
    },
)
zstd = perdure.CheckpointStore(Path(__file__).parent / "format-1", compression="zstd", objects="refuse")
for step in (1, 2):
    zstd.save("big", {"table": np.arange(200_000, dtype=">f8")}, step=step, metadata={"rows": 200_000})
store.save(
    "packed", {"noise": np.random.default_rng(0).integers(0, 256, 1_100_000, dtype="u1"), "half": np.ones(3, "f2")}
)
