"""Freeze live state: the only moment the job may wait."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.state import Flat, Spec

_ALIGN = 64  # a cache line; also more than any dtype needs


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A host copy of a state (and of the run's own context) that nothing can change any more."""

    tree: Any
    context: Any
    leaves: Mapping[str, tuple[Spec, memoryview]]
    trust: tuple[str, ...]
    nbytes: int


class Arena:
    """Memory for snapshots, kept from one to the next: copying into fresh pages costs twice as much."""

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())

    def reserve(self, nbytes: int) -> memoryview:
        """At least `nbytes` writable bytes, page-aligned; valid until the next call."""
        if len(self._memory) < nbytes:
            # Private: in shared pages a forked child that saves would write into its parent's snapshot.
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._memory = memoryview(mmap.mmap(-1, nbytes, flags=private))
        return self._memory[:nbytes]


def capture(state: Flat, context: Flat, arena: Arena) -> Snapshot:
    """Copy every leaf of both trees into the arena. The snapshot is valid until the arena is used again."""
    leaves = {**state.leaves, **context.leaves}
    places, position = {}, 0
    for path, leaf in leaves.items():
        places[path] = position
        position += -(-leaf.spec.nbytes // _ALIGN) * _ALIGN
    memory = arena.reserve(position)
    frozen = {}
    for path, leaf in leaves.items():
        out = memory[places[path] : places[path] + leaf.spec.nbytes]
        leaf.fill(out)
        frozen[path] = (leaf.spec, out.toreadonly())
    nbytes = sum(leaf.spec.nbytes for leaf in leaves.values())
    return Snapshot(state.tree, context.tree, frozen, state.trust + context.trust, nbytes)
