"""A process is called dead only when it certainly is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perdure.storage import process
from perdure.storage.keys import check_key

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, which Linux has")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until its standard input is closed."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        yield running


def named(pid: int) -> process.Process:
    return replace(process.current(), pid=pid, start=process._start_of(pid) or 0)


def end(child: subprocess.Popen[bytes], *, reap: bool = True) -> None:
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | (0 if reap else os.WNOWAIT))


def test_the_calling_process_lives() -> None:
    me = process.current()
    assert me.pid == os.getpid()
    assert not process.tag_is_dead(me.tag)
    assert not process.tag_is_dead(me.tag)
    assert check_key(f"x{me.tag}") == [f"x{me.tag}"], "a tag fits into a key"
    assert str(me) == f"process {me.pid} on {me.host}"


def test_a_child_lives_and_dies(child: subprocess.Popen[bytes]) -> None:
    other = named(child.pid)
    assert not process.tag_is_dead(other.tag)
    end(child)
    assert process.tag_is_dead(other.tag)


@linux
def test_a_zombie_is_dead(child: subprocess.Popen[bytes]) -> None:
    other = named(child.pid)
    end(child, reap=False)
    assert Path(f"/proc/{child.pid}/stat").exists()
    assert process.tag_is_dead(other.tag)


@linux
def test_another_process_with_the_same_pid_is_not_the_same() -> None:
    me = process.current()
    assert process.tag_is_dead(replace(me, start=me.start - 1).tag)
    assert process.tag_is_dead(replace(me, start=me.start + 1).tag)


def test_nobody_knows_about_other_scopes(child: subprocess.Popen[bytes]) -> None:
    elsewhere = replace(named(child.pid), scope="0123456789")
    end(child)
    assert not process.tag_is_dead(elsewhere.tag)


@pytest.mark.parametrize("rest", ["", "-", "-1", "-x-1", "-1-x", "-1--1", "-²-1", "-1-²", "-1-1-1"])
def test_what_is_no_tag_is_not_dead(rest: str) -> None:
    assert not process.tag_is_dead(process.current().scope + rest)
    assert not process.tag_is_dead(rest)


def test_a_process_that_proc_hides_is_not_dead(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `hidepid`, /proc has no entry for the processes of other users, although they live."""
    other = named(child.pid)

    def hidden(path: Path) -> str:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", hidden)
        assert not process.tag_is_dead(other.tag)
        end(child)
        assert process.tag_is_dead(other.tag)


@pytest.mark.parametrize("pid", [2**22 + 1, 2**40])
def test_a_pid_that_cannot_be_is_dead(pid: int) -> None:
    assert process.tag_is_dead(f"{process.current().scope}-{pid}-1")


def test_a_forked_child_goes_by_its_own_name() -> None:
    # In a process of its own: forking one that has threads is not safe.
    script = """
import json, os
from perdure.storage import process
parent = process.current()
out, into = os.pipe()
if not os.fork():
    child = process.current()
    os.write(into, json.dumps([child.pid == os.getpid(), child.tag, process.tag_is_dead(parent.tag)]).encode())
    os._exit(0)
os.wait()
own, tag, parent_dead = json.loads(os.read(out, 1000))
print(json.dumps([own, parent_dead, tag != parent.tag, process.tag_is_dead(tag), process.current() == parent]))
"""
    output = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True).stdout
    assert json.loads(output) == [True, False, True, True, True]
