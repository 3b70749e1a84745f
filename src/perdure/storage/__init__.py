"""Keep bytes under keys, durably; know nothing of what they mean."""

from perdure.storage.contract import Entry, Storage, Traits, open_storage
from perdure.storage.local import LocalStorage
from perdure.storage.memory import MemoryStorage

__all__ = ["Entry", "LocalStorage", "MemoryStorage", "Storage", "Traits", "open_storage"]
