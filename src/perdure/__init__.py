"""Long-running work that always finishes: it goes on from where it was, and nothing wrong is ever restored.

    live objects -> state -> capture -> encode -> storage -> catalog      (save)
    live objects <- state <- restore <- encode <- storage <- catalog      (restore)

`state` takes live objects apart, `capture` freezes them, `encode` turns leaves into bytes, `storage` keeps
bytes under keys, `catalog` commits the manifest that makes a checkpoint exist, and `restore` reads it back.
`store` is that path for any state, `run` for a loop (`loops` knows where it stands), `controller` decides for
a pipeline of tasks; `policy` says when to save, `notice` when to stop, `events` what happened.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from perdure.config import VERSION as __version__

if TYPE_CHECKING:
    from perdure.catalog import Checkpoint
    from perdure.controller import AdaptiveCheckpointController
    from perdure.errors import PerdureError
    from perdure.policy import EverySeconds, EverySteps, OverheadCap, Threshold
    from perdure.run import Run
    from perdure.state import register
    from perdure.store import CheckpointStore

__all__ = [
    "AdaptiveCheckpointController",
    "Checkpoint",
    "CheckpointStore",
    "EverySeconds",
    "EverySteps",
    "OverheadCap",
    "PerdureError",
    "Run",
    "Threshold",
    "__version__",
    "register",
]

_ROOMS = {
    "AdaptiveCheckpointController": "controller",
    "Checkpoint": "catalog",
    "CheckpointStore": "store",
    "EverySeconds": "policy",
    "EverySteps": "policy",
    "OverheadCap": "policy",
    "PerdureError": "errors",
    "Run": "run",
    "Threshold": "policy",
    "register": "state",
}


def __getattr__(name: str) -> object:
    """Open a room when its first name is used: every command and worker imports perdure, few need all of it."""
    if name in _ROOMS:
        return getattr(import_module(f"perdure.{_ROOMS[name]}"), name)
    # Submodules too, so that `import perdure` is enough for `perdure.errors.BusyError`.
    if not name.startswith("_"):
        try:
            return import_module(f"perdure.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"perdure.{name}":
                raise
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")
