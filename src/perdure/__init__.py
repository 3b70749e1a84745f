"""Long-running work that always finishes: it goes on from where it was, and nothing wrong is ever restored.

    live objects -> state -> capture -> encode -> storage -> catalog      (save)
    live objects <- state <- restore <- encode <- storage <- catalog      (restore)

`state` takes live objects apart, `capture` freezes them, `encode` turns leaves into bytes, `storage` keeps
bytes under keys, `catalog` commits the manifest that makes a checkpoint exist, and `restore` reads it back.
`store` is that path for any state, `run` for a loop (`loops` knows where it stands), `controller` decides for
a pipeline of tasks; `policy` says when to save, `notice` when to stop, `events` what happened.
"""

from perdure.catalog import Checkpoint
from perdure.config import VERSION
from perdure.controller import AdaptiveCheckpointController
from perdure.errors import PerdureError
from perdure.policy import EverySeconds, EverySteps, OverheadCap, Threshold
from perdure.run import Run
from perdure.state import register
from perdure.store import CheckpointStore

__version__ = VERSION

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
    "register",
]
