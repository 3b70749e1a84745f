"""For authors of storages and policies: the contract as tests, crashes on demand.

The suites need pytest and are imported from their own modules: `perdure.testing.storage_suite`.
"""

from perdure.testing.disk import Crash, FaultyDisk, PowerLossDisk

__all__ = ["Crash", "FaultyDisk", "PowerLossDisk"]
