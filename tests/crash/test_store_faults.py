"""A whole save where each system call fails in turn, the process dies at it, or power is lost after it."""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perdure import CheckpointStore, Run
from perdure.errors import PerdureError, StorageFull
from perdure.storage import LocalStorage, process
from perdure.testing import Crash, FaultyDisk, PowerLossDisk

ROOT = "/data/store"
ERRORS = [errno.ENOSPC, errno.EIO, errno.EACCES]
SIZES = {"inline": 50, "packs": 400}


def state(step: int, size: int) -> dict[str, Any]:
    return {"w": np.full(size, step, "f8"), "step": step}


def step_of(loaded: dict[str, Any]) -> int:
    """The step of a state, after a look at all of it."""
    assert (loaded["w"] == loaded["step"]).all()
    return int(loaded["step"])


def open_store(disk: Any, root: str | Path = ROOT, keep: int = 2) -> CheckpointStore:
    return CheckpointStore(LocalStorage(root, disk=disk), keep=keep)


def files(disk: Any, folder: str) -> list[str]:
    """Every file below a folder."""
    found = []
    for name in disk.listdir(folder):
        path = f"{folder}/{name}"
        inside = stat.S_ISDIR(disk.stat(path, follow_symlinks=False).st_mode)
        found += files(disk, path) if inside else [path]
    return found


def litter(disk: Any, root: str, store: CheckpointStore) -> list[str]:
    """Files that no checkpoint needs."""
    versions = store.catalog.versions("x")
    manifests = [store.catalog.manifest("x", entry) for entry in versions.manifests.values()]
    needed = {f"{root}/{entry.key}" for entry in versions.manifests.values()}
    needed |= {f"{root}/checkpoints/x/{pack}" for manifest in manifests for pack in manifest.packs}
    return sorted(set(files(disk, root)) - needed)


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """States of more than 2 kB get packs, as those of more than 1 MiB do elsewhere; the calls are the same."""
    monkeypatch.setattr("perdure.catalog.writer._INLINE_LIMIT", 2000)


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Inside, this process goes by the name of one that has ended, so that its temporary files are litter."""
    with subprocess.Popen(["true"]) as ended:
        pass
    name = replace(process.current(), pid=ended.pid, start=1)

    def play_dead() -> None:
        monkeypatch.setattr(process, "current", lambda: name)
        monkeypatch.setattr("perdure.catalog.writer.current", lambda: name)
        monkeypatch.setattr("perdure.catalog.lease.current", lambda: name)

    yield play_dead
    monkeypatch.undo()


@pytest.mark.parametrize("error", ERRORS, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("versions", [0, 3])
def test_an_error_at_every_call_of_a_save(size: str, error: int, versions: int) -> None:
    failed = 0
    for number in count(1):
        disk = PowerLossDisk()
        for step in range(1, versions + 1):
            open_store(disk).save("x", state(step, SIZES[size]))
        faulty = FaultyDisk(disk, fail_at=number, error=error)
        acknowledged = versions
        try:
            open_store(faulty).save("x", state(versions + 1, SIZES[size]))
            acknowledged += 1
        except PerdureError as problem:
            failed += 1
            assert isinstance(problem, StorageFull) == (error == errno.ENOSPC), problem
            assert problem.hint
        assert not faulty.descriptors
        store = open_store(disk)
        if versions or acknowledged:
            assert step_of(store.load("x")) in {acknowledged, versions + 1}
        store.save("x", state(versions + 2, SIZES[size]))
        assert step_of(store.load("x")) == versions + 2
        left = litter(disk, ROOT, store)
        # A file whose removal failed belongs to a process that lives: it stays until that has ended.
        assert len(left) <= (faulty.calls[number - 1 : number] == ["unlink"]), left
        if number > len(faulty.calls):
            break
    assert failed > 20


@pytest.mark.parametrize("size", SIZES)
def test_a_short_write_at_every_call_changes_nothing(size: str) -> None:
    for number in count(1):
        disk = PowerLossDisk()
        faulty = FaultyDisk(disk, short_at=number)
        open_store(faulty).save("x", state(1, SIZES[size]))
        assert step_of(open_store(disk).load("x")) == 1
        if number > len(faulty.calls):
            break


@pytest.mark.parametrize("size", SIZES)
def test_an_error_at_every_call_of_a_load_is_never_an_absence(size: str) -> None:
    disk = PowerLossDisk()
    for step in (1, 2):
        open_store(disk).save("x", state(step, SIZES[size]))
    for number in count(1):
        faulty = FaultyDisk(disk, fail_at=number)
        store = open_store(faulty)
        try:
            assert step_of(store.load("x")) == 2
        except OSError as error:
            assert isinstance(error, PerdureError)
            assert not isinstance(error, FileNotFoundError)
        assert not open_store(disk).catalog.versions("x").bad, "an error of the disk is not damage"
        assert not faulty.descriptors
        if number > len(faulty.calls):
            break


@pytest.mark.parametrize("size", SIZES)
def test_a_crash_at_every_call_of_a_save_on_a_real_disk(size: str, tmp_path: Path, dead: Any) -> None:
    root = tmp_path / "store"
    open_store(os, root).save("x", state(1, SIZES[size]))
    dead()
    acknowledged = 1
    for number in count(1):
        faulty = FaultyDisk(os, crash_at=number)
        try:
            open_store(faulty, root).save("x", state(acknowledged + 1, SIZES[size]))
            done = True
        except Crash:
            done = False
        store = open_store(os, root)
        assert step_of(store.load("x")) in ({acknowledged + 1} if done else {acknowledged, acknowledged + 1})
        assert len(litter(os, str(root), store)) <= 3
        open_store(os, root).save("x", state(acknowledged + 1, SIZES[size]))
        acknowledged += 1
        assert step_of(store.load("x")) == acknowledged
        assert litter(os, str(root), store) == []
        if done:
            break
    assert number > 20


def power_losses(size: int, seeds: list[int | None]) -> int:
    """Crash at each call of three saves, lose power, and look; returns the number of crashes."""
    crashes = 0
    for seed in seeds:
        for number in count(1):
            disk = PowerLossDisk()
            faulty = FaultyDisk(disk, crash_at=number)
            acknowledged = 0
            try:
                for step in (1, 2, 3):
                    open_store(faulty).save("x", state(step, size))
                    acknowledged = step
            except Crash:
                crashes += 1
            disk.lose_power(None if seed is None else random.Random(seed * 1000 + number))
            store = open_store(disk)
            try:
                found = step_of(store.load("x"))
            except FileNotFoundError:
                found = 0
            except PerdureError:
                # Cut before the root was durable; a store that never acknowledged anything owes nothing.
                found = 0
                assert acknowledged == 0
            assert found in {acknowledged, acknowledged + 1}, (seed, number, faulty.calls[-1])
            assert store.catalog.versions("x").bad == frozenset() if disk.access(ROOT, os.F_OK) else True
            store = open_store(disk)
            store.save("x", state(9, size))
            assert step_of(store.load("x")) == 9
            if acknowledged == 3:
                break
    return crashes


@pytest.mark.parametrize("size", SIZES)
def test_power_loss_at_every_call_takes_nothing_acknowledged(size: str, dead: Any) -> None:
    dead()
    assert power_losses(SIZES[size], [None]) > 70


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_power_loss_with_many_remains(size: str, dead: Any) -> None:
    dead()
    power_losses(SIZES[size], list(range(1, 7)))


@pytest.mark.torture
@pytest.mark.parametrize("size", SIZES)
def test_power_loss_with_very_many_remains(size: str, dead: Any) -> None:
    dead()
    power_losses(SIZES[size], list(range(100, 160)))


def run_to(store: CheckpointStore, end: int) -> list[int]:
    done = []
    data = {"sum": 0}
    with Run("x", data, store=store) as run:
        for index in run.range(end):
            data["sum"] += index
            done.append(index)
            run.step()
    assert run.state["sum"] == sum(range(end))
    return done


def test_a_run_that_dies_at_every_call_goes_on(dead: Any) -> None:
    dead()
    disk = PowerLossDisk()
    for number in count(1):
        disk = PowerLossDisk()
        faulty = FaultyDisk(disk, crash_at=number)
        try:
            run_to(open_store(faulty), 3)
            finished = True
        except Crash:
            finished = False
        disk.lose_power()
        run_to(open_store(disk), 4)
        run_to(open_store(disk), 4)
        if finished:
            break
    assert number > 50
