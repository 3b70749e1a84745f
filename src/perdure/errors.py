"""Every error of perdure, as one tree.

    PerdureError
    ├── UsageError            (ValueError)         an argument makes no sense; nothing was done
    ├── MissingExtraError     (ImportError)        an optional library is not installed
    ├── StateError            (TypeError)          the state holds something that cannot be saved
    ├── StorageError          (OSError)            the storage answered with an error
    │   ├── StorageFull                            no space or quota left
    │   ├── KeyMissing                             there are no bytes under this key
    │   └── KeyExists                              create-if-absent found the key taken
    ├── CheckpointNotFound    (FileNotFoundError)  a complete, successful listing has no such checkpoint
    ├── DamagedError                               bytes are not what was written
    ├── FormatError                                a newer perdure wrote it
    ├── UntrustedError                             loading would run code that nobody known has signed
    ├── MismatchError         (ValueError)         the checkpoint does not fit the live objects
    ├── BusyError                                  another writer holds the name
    │   └── FencedError                            this writer lost the name to another one
    └── SaveFailed                                 a save on notice failed, so leaving is not safe

A message says what is wrong, `hint` what to do next. `kind` is a stable code, `retryable` says whether the
same call may succeed later, `exit_code` is what the command line and a stopped run leave with.
"""

from __future__ import annotations

from typing import ClassVar


class PerdureError(Exception):
    """What is wrong, with a hint what to do next."""

    kind: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments are not part of `args`, and errors cross process borders (Ray, pools).
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(cls: type[PerdureError], message: str, hint: str) -> PerdureError:
    return cls(message, hint=hint)


class UsageError(PerdureError, ValueError):
    kind = "usage"
    exit_code = 2


class MissingExtraError(PerdureError, ImportError):
    kind = "missing-extra"
    exit_code = 2

    @classmethod
    def of(cls, library: str, extra: str) -> MissingExtraError:
        return cls(f"{library} is not installed", hint=f"install it with: pip install 'perdure[{extra}]'")


class StateError(PerdureError, TypeError):
    kind = "state"


class StorageError(PerdureError, OSError):
    kind = "storage"
    exit_code = 74


class StorageFull(StorageError):
    kind = "storage-full"


class KeyMissing(StorageError):
    kind = "key-missing"


class KeyExists(StorageError):
    kind = "key-exists"


class CheckpointNotFound(PerdureError, FileNotFoundError):
    kind = "not-found"


class DamagedError(PerdureError):
    kind = "damaged"
    exit_code = 74


class FormatError(PerdureError):
    kind = "format"


class UntrustedError(PerdureError):
    kind = "untrusted"


class MismatchError(PerdureError, ValueError):
    kind = "mismatch"


class BusyError(PerdureError):
    kind = "busy"
    retryable = True
    exit_code = 75


class FencedError(BusyError):
    kind = "fenced"
    retryable = False


class SaveFailed(PerdureError):
    kind = "save-failed"
    exit_code = 74
