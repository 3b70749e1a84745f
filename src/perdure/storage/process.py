"""Name a process so that another one can tell for certain that it is dead."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from blake3 import blake3


@dataclass(frozen=True, slots=True)
class Process:
    """A process on some host; `scope` separates hosts, boots and PID namespaces, `start` reused PIDs."""

    host: str
    scope: str
    pid: int
    start: int

    @property
    def tag(self) -> str:
        """The name as one key segment."""
        return f"{self.scope}-{self.pid}-{self.start}"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def tag_is_dead(tag: str) -> bool:
    """True only when it is certain; False from another host, boot or namespace, and for what is no tag."""
    scope, _, rest = tag.partition("-")
    pid, _, start = rest.partition("-")
    if scope != current().scope or not (pid.isdecimal() and start.isdecimal()):
        return False
    return _start_of(int(pid)) not in (int(start), None)


def current() -> Process:
    """The calling process."""
    return _process(os.getpid())


@lru_cache(maxsize=1)
def _process(pid: int) -> Process:
    # Keyed by PID, so that a forked child does not go by its parent's name.
    host = os.uname().nodename
    scope = f"{host}\n{_read('/proc/sys/kernel/random/boot_id')}\n{_pid_namespace()}"
    return Process(host, blake3(scope.encode()).hexdigest(length=5), pid, _start_of(pid) or 0)


def _start_of(pid: int) -> int | None:
    """Start time in clock ticks since boot; -1 when there is no such process, None when nobody can tell."""
    linux = sys.platform.startswith("linux")
    try:
        # The command may contain spaces and brackets: fields count from the last closing bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if linux else []
    except OSError:
        fields = []
    if fields:
        return -1 if fields[0] in "ZX" else int(fields[19])
    # No entry is no proof: /proc mounted with `hidepid` shows nobody the processes of other users.
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return -1
    except PermissionError:
        return None
    return None if linux else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
