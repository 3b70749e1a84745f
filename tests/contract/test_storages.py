"""The contract of a storage, held by every storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.storage import LocalStorage, MemoryStorage, Storage
from perdure.testing import PowerLossDisk
from perdure.testing.storage_suite import StorageSuite


class TestLocal(StorageSuite):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return LocalStorage(tmp_path / "not" / "there" / "yet")


class TestMemory(StorageSuite):
    @pytest.fixture
    def storage(self) -> Storage:
        return MemoryStorage("suite")


class TestLocalOnPowerLossDisk(StorageSuite):
    """The model of a disk is good enough to run the real code on it."""

    @pytest.fixture
    def storage(self) -> Storage:
        return LocalStorage("/some/store", disk=PowerLossDisk())
