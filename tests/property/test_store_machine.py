"""Any sequence of saves, crashes, power cuts, damage and reopenings, against a dict that remembers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perdure.errors import CheckpointNotFound, DamagedError, PerdureError
from perdure.storage import LocalStorage
from perdure.store import CheckpointStore
from perdure.testing import Crash, FaultyDisk, PowerLossDisk

NAMES = st.sampled_from(["a", "b/../c"])
SIZES = st.sampled_from([1, 200_000])  # inline, and in a pack


class StoreMachine(RuleBasedStateMachine):
    """`acknowledged` are the values that a save returned for, oldest first; `tried` all that were ever saved."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = PowerLossDisk()
        self.count = 0
        self.acknowledged: dict[str, list[int]] = {}
        self.tried: dict[str, set[int]] = {}
        self.damaged: dict[str, int] = {}
        self.reopen()

    @rule()
    def reopen(self, crash_at: int = 0) -> None:
        disk = FaultyDisk(self.disk, crash_at=crash_at)
        self.store = CheckpointStore(LocalStorage("/store", disk=disk), keep=3, objects="refuse")

    def state(self, size: int) -> dict[str, Any]:
        self.count += 1
        return {"n": self.count, "w": np.full(size, self.count), "frozen": np.zeros(size)}

    @rule(name=NAMES, size=SIZES)
    def save(self, name: str, size: int) -> None:
        state = self.state(size)
        self.tried.setdefault(name, set()).add(self.count)
        self.store.save(name, state)
        self.acknowledged.setdefault(name, []).append(self.count)
        self.damaged[name] = 0

    @rule(name=NAMES, size=SIZES, call=st.integers(1, 110), seed=st.none() | st.integers(0, 99))
    def crash(self, name: str, size: int, call: int, seed: int | None) -> None:
        """The power goes at some system call of a save; the disk may keep any part of what was not synced."""
        state = self.state(size)
        self.tried.setdefault(name, set()).add(self.count)
        self.reopen(crash_at=call)
        try:
            self.store.save(name, state)
            self.acknowledged.setdefault(name, []).append(self.count)
            self.damaged[name] = 0
        except Crash:
            pass
        self.disk.lose_power(None if seed is None else random.Random(seed))
        self.reopen()

    @rule(name=NAMES, place=st.floats(0, 1, exclude_max=True))
    def flip(self, name: str, place: float) -> None:
        """One byte of the newest manifest changes."""
        catalog = self.store.catalog
        versions = catalog.versions(name)
        if not versions.good():
            return
        key = versions.manifests[versions.good()[0]].key
        data = bytearray(self.store.storage.read(key))
        data[int(place * len(data))] ^= 0x10
        self.store.storage.put(key, [data])
        self.damaged[name] = self.damaged.get(name, 0) + 1

    @invariant()
    def loads_what_was_saved(self) -> None:
        for name in list(self.tried):
            acknowledged = self.acknowledged.get(name, [])
            try:
                state = self.store.load(name)
            except CheckpointNotFound:
                assert not acknowledged
                continue
            except DamagedError:
                assert self.damaged.get(name)
                continue
            except PerdureError as error:
                # A flipped byte may turn the format's number into a newer one.
                assert error.kind == "format" and self.damaged.get(name), error
                continue
            assert state["n"] in self.tried[name]
            assert (state["w"] == state["n"]).all()
            assert not state["frozen"].any()
            if not self.damaged.get(name):
                assert state["n"] >= max(acknowledged, default=0)

    @invariant()
    def litter_is_bounded(self) -> None:
        for name in self.acknowledged:
            folder = self.store.catalog.folder(name)
            assert len(self.store.storage.entries(folder)) <= 12
            assert len(self.store.storage.entries(f"{folder}/packs")) <= 12


StoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStore = StoreMachine.TestCase
