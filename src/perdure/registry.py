"""Find an implementation by name and import it only then."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from perdure.errors import UsageError

_ROOMS: dict[str, dict[str, str]] = {
    # Keyed by the top-level module of a type, so that a value's own class says who can save it.
    "state": {
        "bytearray": "perdure.state.objects:BLOBS",
        "bytes": "perdure.state.objects:BLOBS",
        "object": "perdure.state.objects:BLOBS",
        "numpy": "perdure.state.numpy:ADAPTER",
        "random": "perdure.state.rng:ADAPTER",
        "torch": "perdure.state.torch:ADAPTER",
    },
    "compression": {
        "zstd": "perdure.encode.compress:ZSTD",
    },
    "policy": {
        "every-steps": "perdure.policy:EverySteps",
        "every-seconds": "perdure.policy:EverySeconds",
        "threshold": "perdure.policy:Threshold",
    },
    "listener": {
        "progress": "perdure.progress:Progress",
    },
    "storage": {
        "file": "perdure.storage.local:LocalStorage",
        "memory": "perdure.storage.memory:open_memory",
    },
}


def known(group: str) -> list[str]:
    """The names that `load` answers to in `group`."""
    return sorted(_ROOMS[group])


def load(group: str, name: str) -> Any:
    """Import and return the implementation of `name`; UsageError lists the valid names."""
    try:
        target = _ROOMS[group][name]
    except KeyError:
        raise UsageError(f"unknown {group} {name!r}", hint=f"choose one of: {', '.join(known(group))}") from None
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def add(group: str, name: str, target: str) -> None:
    """Make `name` loadable from `target`, written `package.module:attribute`."""
    _ROOMS[group][name] = target
