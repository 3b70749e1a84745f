"""LocalStorage where calls fail, the process dies and power is lost at every call: what was put is there.

The model of the disk (`PowerLossDisk`) loses everything that was not synced, or an arbitrary part of it; the
guards at the end of that section take single syncs away and must see the invariants break.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import KeyExists, KeyMissing, StorageError, StorageFull
from perdure.storage import LocalStorage, process
from perdure.testing import Crash, FaultyDisk, PowerLossDisk

ROOT = "/data/me/store"
KEY = "f/g/k"
BESIDE = "f/g/beside"
OLD, NEW, NEXT = b"old " * 100, b"new! " * 200, b"next"
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS]
# None: all that was not synced is lost. A number: chance decides, with this seed.
LOSSES = [None, *range(50)]
FEW = LOSSES[:5]

Act = Callable[[LocalStorage], object]


@dataclass(frozen=True)
class Scene:
    """One operation that is cut short somewhere, what was there before it, and what it leaves."""

    name: str
    before: bytes | None
    act: Act
    after: bytes | None
    fresh: bool = False

    def prepare(self, storage: LocalStorage) -> None:
        if not self.fresh:
            storage.put(BESIDE, [b"beside"])
        if self.before is not None:
            storage.put(KEY, [self.before])

    def check(self, storage: LocalStorage, *, done: bool) -> list[str]:
        """What is wrong after the operation has returned (`done`) or was cut short."""
        allowed = {self.after} if done else {self.before, self.after}
        wrong = []
        if content(storage, KEY) not in allowed:
            wrong.append(f"{KEY} holds {content(storage, KEY)!r}")
        if not self.fresh and content(storage, BESIDE) != b"beside":
            wrong.append("the key beside is damaged")
        if {entry.key for entry in storage.entries("f/g")} - {KEY, BESIDE}:
            wrong.append("something is listed that nobody has put")
        return wrong


def put(data: bytes, *, if_absent: bool = False) -> Act:
    return lambda storage: storage.put(KEY, [data[:7], data[7:]], if_absent=if_absent)


def taken(storage: LocalStorage) -> None:
    with pytest.raises(KeyExists):
        put(NEW, if_absent=True)(storage)


class Careless:
    """A disk that does all as it should; what derives from it does not."""

    def __init__(self, disk: Any) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


PUTS = [
    Scene("first put", None, put(NEW), NEW, fresh=True),
    Scene("first put if absent", None, put(NEW, if_absent=True), NEW, fresh=True),
    Scene("new key", None, put(NEW), NEW),
    Scene("new key if absent", None, put(NEW, if_absent=True), NEW),
    Scene("overwrite", OLD, put(NEW), NEW),
]
SCENES = [
    *PUTS,
    Scene("taken key", OLD, taken, OLD),
    Scene("delete", OLD, lambda storage: storage.delete(KEY), None),
]


def scenes(which: Iterable[Scene]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("scene", which, ids=lambda scene: scene.name)


def content(storage: LocalStorage, key: str) -> bytes | None:
    try:
        return storage.read(key)
    except KeyMissing:
        return None


def litter(disk: Any, folder: str = ROOT) -> list[str]:
    """Every temporary file below a folder, by looking at the disk itself."""
    found = []
    for name in disk.listdir(folder) if disk.access(folder, os.F_OK) else []:
        path = f"{folder}/{name}"
        if stat.S_ISDIR(disk.stat(path, follow_symlinks=False).st_mode):
            found += litter(disk, path)
        elif name.startswith("."):
            found.append(path)
    return found


@pytest.fixture
def as_a_dead_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files get the name of a process that has ended, so that `tidy` may remove them."""
    with subprocess.Popen(["true"]) as ended:
        pass
    dead = replace(process.current(), pid=ended.pid, start=1)
    monkeypatch.setattr(process, "current", lambda: dead)


# Errors: every kind at every call


@pytest.mark.usefixtures("as_a_dead_process")
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@scenes(PUTS)
def test_a_put_that_fails_leaves_nothing(scene: Scene, error: int) -> None:
    for at in count(1):
        disk = PowerLossDisk()
        if fail_a_put(scene, error, at, ROOT, disk):
            return
        # The retry was acknowledged, also where the call that failed was a sync.
        disk.lose_power()
        assert content(LocalStorage(ROOT, disk=disk), KEY) == NEXT


@pytest.mark.usefixtures("as_a_dead_process")
@scenes(PUTS)
def test_a_put_that_fails_leaves_nothing_on_a_real_disk(scene: Scene, tmp_path: Path) -> None:
    for at in count(1):
        if fail_a_put(scene, errno.ENOSPC, at, str(tmp_path / str(at) / "not" / "yet"), os):
            return


def fail_a_put(scene: Scene, error: int, at: int, root: str, disk: Any) -> bool:
    """Let one call fail and check everything that is promised; True when there is no such call any more."""
    witness = LocalStorage(root, disk=disk)
    scene.prepare(witness)
    faulty = FaultyDisk(disk, fail_at=at, error=error)
    storage = LocalStorage(root, disk=faulty)
    done = False
    try:
        scene.act(storage)
        done = True
    except StorageError as raised:
        assert type(raised) is (StorageFull if error in (errno.ENOSPC, errno.EDQUOT) else StorageError)
        assert KEY in str(raised)
        assert os.strerror(error) in str(raised)
    if len(faulty.calls) < at:
        return True
    failed, if_absent = faulty.calls[at - 1], "link" in faulty.calls
    assert not faulty.descriptors, "a descriptor leaks"
    assert scene.check(witness, done=done) == []
    if not done and (if_absent or "rename" not in faulty.calls):
        assert content(witness, KEY) == scene.before, "not acknowledged, so not there"
    assert failed == "unlink" or not litter(disk, root)

    if not done and if_absent:
        storage.put(KEY, [NEXT], if_absent=True)
    storage.put(KEY, [NEXT])
    assert content(witness, KEY) == NEXT
    witness.tidy("f/g")
    assert not litter(disk, root)
    return False


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(
    ("act", "answer"),
    [
        (lambda storage: storage.read(KEY), OLD),
        (lambda storage: storage.read_into(KEY, 4, memoryview(bytearray(8))), 8),
        (lambda storage: [entry.key for entry in storage.entries("f/g")], [BESIDE, KEY]),
        (lambda storage: storage.folders("f"), ["g"]),
        (lambda storage: storage.tidy("f/g"), 0),
    ],
    ids=["read", "read_into", "entries", "folders", "tidy"],
)
def test_an_error_is_never_taken_for_absence(act: Act, answer: object, error: int) -> None:
    disk = PowerLossDisk()
    Scene("", OLD, act, OLD).prepare(LocalStorage(ROOT, disk=disk))
    for at in count(1):
        faulty = FaultyDisk(disk, fail_at=at, error=error)
        try:
            assert act(LocalStorage(ROOT, disk=faulty)) == answer
        except StorageError as raised:
            assert not isinstance(raised, KeyMissing)
        assert not faulty.descriptors
        if len(faulty.calls) < at:
            return


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_a_delete_that_fails_can_be_repeated(error: int) -> None:
    for at in count(1):
        disk = PowerLossDisk()
        LocalStorage(ROOT, disk=disk).put(KEY, [OLD])
        faulty = FaultyDisk(disk, fail_at=at, error=error)
        storage = LocalStorage(ROOT, disk=faulty)
        try:
            storage.delete(KEY)
            assert content(storage, KEY) is None
        except StorageError as raised:
            assert KEY in str(raised)
            assert content(storage, KEY) in (OLD, None)
        if len(faulty.calls) < at:
            return
        storage.delete(KEY)
        disk.lose_power()
        assert content(LocalStorage(ROOT, disk=disk), KEY) is None


def test_short_writes_and_reads_are_continued() -> None:
    for at in count(1):
        disk = FaultyDisk(PowerLossDisk(), short_at=at)
        storage = LocalStorage(ROOT, disk=disk)
        assert storage.put(KEY, [OLD, b"1", NEW]) == len(OLD + b"1" + NEW)
        assert storage.read(KEY) == OLD + b"1" + NEW
        out = bytearray(10)
        assert storage.read_into(KEY, 3, memoryview(out)) == 10
        assert out == (OLD + b"1" + NEW)[3:13]
        if len(disk.calls) < at:
            return


def test_a_write_without_progress_is_an_error() -> None:
    class Stuck(Careless):
        def write(self, file: int, data: memoryview) -> int:
            return 0

    with pytest.raises(StorageError, match="no progress"):
        LocalStorage(ROOT, disk=Stuck(PowerLossDisk())).put(KEY, [NEW])


def test_a_file_system_without_directory_syncs_is_served() -> None:
    class NoDirectorySync(Careless):
        def fsync(self, file: int) -> None:
            if stat.S_ISDIR(self._disk.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "no such thing here")

    storage = LocalStorage(ROOT, disk=NoDirectorySync(PowerLossDisk()))
    put(NEW, if_absent=True)(storage)
    assert storage.read(KEY) == NEW


def test_a_lost_answer_to_a_link_is_not_a_conflict() -> None:
    """A network file system repeats the request and is told that the name, our own, is taken."""

    class Repeating(Careless):
        def link(self, *args: Any, **options: Any) -> None:
            self._disk.link(*args, **options)
            self._disk.link(*args, **options)

    disk = PowerLossDisk()
    put(NEW, if_absent=True)(LocalStorage(ROOT, disk=Repeating(disk)))
    disk.lose_power()
    taken(LocalStorage(ROOT, disk=disk))
    assert content(LocalStorage(ROOT, disk=disk), KEY) == NEW


# Death and loss of power: at every call


def violations(
    scene: Scene,
    *,
    disk_of: Callable[[Any], Any] = Careless,
    retry: Scene | None = None,
    losses: Iterable[int | None] = LOSSES,
) -> list[str]:
    """Everything that is wrong after a crash at each call and a loss of power of each kind.

    With `retry`, another process first does this to the end, on top of what the dead one has left.
    """
    found = []
    for at in count(1):
        disk = PowerLossDisk()
        scene.prepare(LocalStorage(ROOT, disk=disk))
        last, done = scene, True
        try:
            scene.act(LocalStorage(ROOT, disk=FaultyDisk(disk_of(disk), crash_at=at)))
        except Crash:
            done = False
        if retry is not None:
            last = retry
            retry.act(LocalStorage(ROOT, disk=disk))
        for loss in losses:
            left = disk.copy()
            left.lose_power(None if loss is None else random.Random(f"{loss} {at}"))
            wrong = last.check(LocalStorage(ROOT, disk=left), done=done or retry is not None)
            found += [f"{scene.name}, crash at call {at}, loss {loss}: {each}" for each in wrong]
        if done:
            break
    return found


@scenes(SCENES)
def test_what_was_put_survives_crash_and_power_loss(scene: Scene) -> None:
    assert violations(scene) == []


@scenes(SCENES)
def test_a_crash_alone_leaves_old_or_new(scene: Scene) -> None:
    for at in count(1):
        disk = PowerLossDisk()
        scene.prepare(LocalStorage(ROOT, disk=disk))
        done = True
        try:
            scene.act(LocalStorage(ROOT, disk=FaultyDisk(disk, crash_at=at)))
        except Crash:
            done = False
        assert scene.check(LocalStorage(ROOT, disk=disk), done=done) == []
        if done:
            return


def put_or_find(storage: LocalStorage) -> None:
    try:
        put(NEW, if_absent=True)(storage)
    except KeyExists:
        # Who finds here what the process before was about to write relies on it.
        assert storage.read(KEY) == NEW


@pytest.mark.parametrize(
    ("scene", "retry"),
    [
        (PUTS[0], PUTS[0]),
        (PUTS[1], replace(PUTS[1], act=put_or_find)),
        (PUTS[3], replace(PUTS[3], act=put_or_find)),
        (PUTS[4], PUTS[4]),
        (SCENES[-1], SCENES[-1]),
        (SCENES[-1], PUTS[4]),
    ],
    ids=["first put", "first put if absent", "new key if absent", "overwrite", "delete", "delete, then put"],
)
def test_what_the_next_process_does_is_durable_too(scene: Scene, retry: Scene) -> None:
    """The dead one may have made directories and names that nobody has synced, and they look all right."""
    assert violations(scene, retry=retry) == []


@pytest.mark.parametrize("seed", range(100))
def test_many_lives_of_one_storage(seed: int) -> None:
    """Random work in random lives against a dictionary of what each key may hold."""
    chance = random.Random(seed)
    disk = PowerLossDisk()
    allowed: dict[str, set[bytes | None]] = {key: {None} for key in ("k", "f/k", "f/l", "f/g/k", "h/k")}
    for life in range(4):
        storage = LocalStorage(ROOT, disk=FaultyDisk(disk, crash_at=chance.randrange(1, 200)))
        try:
            for step in range(8):
                work(storage, chance, allowed, f"{life} {step} ".encode() * chance.randrange(1, 50))
        except Crash:
            pass
        storage = LocalStorage(ROOT, disk=disk)
        assert all(content(storage, key) in values for key, values in allowed.items())
        if chance.random() < 0.6:
            disk.lose_power(chance.choice([None, chance]))
            for key, values in allowed.items():
                assert content(storage, key) in values
                allowed[key] = {content(storage, key)}


def work(storage: LocalStorage, chance: random.Random, allowed: dict[str, set[bytes | None]], data: bytes) -> None:
    key = chance.choice(sorted(allowed))
    act = chance.choice(["put", "put", "create", "create", "delete"])
    before = allowed[key]
    allowed[key] = before | {None if act == "delete" else data}
    if act == "delete":
        storage.delete(key)
        allowed[key] = {None}
        return
    try:
        storage.put(key, [data], if_absent=act == "create")
        allowed[key] = {data}
    except KeyExists:
        allowed[key] = before - {None}
    assert content(storage, key) in allowed[key]


# The guards: without a sync, the tests above must fail


class WithoutSync(Careless):
    """A disk that leaves out some syncs."""

    def __init__(self, disk: Any, which: Callable[[int, bool], bool]) -> None:
        super().__init__(disk)
        self._which = which
        self._syncs = 0

    def fsync(self, file: int) -> None:
        self._syncs += 1
        if not self._which(self._syncs, stat.S_ISDIR(self._disk.fstat(file).st_mode)):
            self._disk.fsync(file)


@scenes([*PUTS, SCENES[-1]])
def test_guard_without_directory_syncs_something_is_lost(scene: Scene) -> None:
    assert violations(scene, disk_of=lambda disk: WithoutSync(disk, lambda _, directory: directory), losses=FEW)


@scenes(PUTS)
def test_guard_without_file_syncs_something_is_damaged(scene: Scene) -> None:
    assert violations(scene, disk_of=lambda disk: WithoutSync(disk, lambda _, directory: not directory), losses=FEW)


@scenes([scene for scene in PUTS if scene.fresh])
def test_guard_every_single_sync_of_a_first_put_is_needed(scene: Scene) -> None:
    counted = FaultyDisk(PowerLossDisk())
    scene.act(LocalStorage(ROOT, disk=counted))
    syncs = counted.calls.count("fsync")
    assert syncs == len(["/", "/data", "/data/me", ROOT, f"{ROOT}/f", "the file", f"{ROOT}/f/g"])
    for left_out in range(1, syncs + 1):
        which = partial(lambda wanted, nth, _: nth == wanted, left_out)
        assert violations(scene, disk_of=partial(WithoutSync, which=which), losses=[None])


# What stands in the way


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that nothing may touch."""
    target = tmp_path / "outside"
    (target / "g").mkdir(parents=True)
    (target / "g" / "k").write_bytes(b"precious")
    yield target
    assert [path.name for path in sorted(target.rglob("*"))] == ["g", "k"]
    assert (target / "g" / "k").read_bytes() == b"precious"


@pytest.fixture
def local(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path / "store")
    storage.put(BESIDE, [b"beside"])
    return storage


def everything(storage: LocalStorage) -> list[Act]:
    return [
        put(NEW),
        put(NEW, if_absent=True),
        lambda storage: storage.read(KEY),
        lambda storage: storage.read_into(KEY, 0, memoryview(bytearray(1))),
        lambda storage: storage.entries("f/g"),
        lambda storage: storage.folders("f/g"),
        lambda storage: storage.delete(KEY),
        lambda storage: storage.tidy("f/g"),
    ]


def refused(act: Act, storage: LocalStorage) -> None:
    with pytest.raises(StorageError) as caught:
        act(storage)
    assert not isinstance(caught.value, KeyMissing)


@pytest.mark.parametrize("place", ["f", "f/g"])
def test_a_link_in_place_of_a_folder_is_not_followed(tmp_path: Path, outside: Path, place: str) -> None:
    storage = LocalStorage(tmp_path / "store")
    link = storage.root / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if place == "f" else outside / "g")
    for act in everything(storage):
        refused(act, storage)
    assert link.is_symlink()


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "store")
    storage.put("f", [b"a file"])
    for act in everything(storage):
        refused(act, storage)
    assert storage.read("f") == b"a file"


def test_a_file_in_place_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file")
    storage = LocalStorage(tmp_path / "store")
    for act in everything(storage):
        refused(act, storage)
    assert (tmp_path / "store").read_bytes() == b"a file"


def test_a_link_in_place_of_a_file_is_not_followed(local: LocalStorage, outside: Path) -> None:
    link = local.root / KEY
    link.symlink_to(outside / "g" / "k")
    refused(lambda storage: storage.read(KEY), local)
    refused(lambda storage: storage.read_into(KEY, 0, memoryview(bytearray(1))), local)
    refused(put(NEW, if_absent=True), local)
    assert [entry.key for entry in local.entries("f/g")] == [BESIDE]
    local.put(KEY, [NEW])  # takes the link's place
    assert not link.is_symlink()
    assert local.read(KEY) == NEW
    link.unlink()
    link.symlink_to(outside / "g" / "k")
    local.delete(KEY)  # removes the link
    assert not link.is_symlink()


def test_a_dangling_link_does_not_create_its_target(local: LocalStorage, tmp_path: Path) -> None:
    (local.root / KEY).symlink_to(tmp_path / "planted")
    refused(put(NEW, if_absent=True), local)
    local.put(KEY, [NEW])
    assert not (tmp_path / "planted").exists()


@pytest.mark.timeout(20)
def test_a_fifo_in_place_of_a_file_is_refused_and_does_not_block(local: LocalStorage) -> None:
    os.mkfifo(local.root / KEY)
    refused(lambda storage: storage.read(KEY), local)
    refused(lambda storage: storage.read_into(KEY, 0, memoryview(bytearray(1))), local)
    refused(put(NEW, if_absent=True), local)
    assert [entry.key for entry in local.entries("f/g")] == [BESIDE]


def test_a_folder_in_place_of_a_file_is_refused(local: LocalStorage) -> None:
    (local.root / KEY).mkdir()
    (local.root / KEY / "inside").write_bytes(b"1")
    for act in (put(NEW), put(NEW, if_absent=True), lambda storage: storage.delete(KEY)):
        refused(act, local)
    refused(lambda storage: storage.read(KEY), local)
    assert local.read(f"{KEY}/inside") == b"1"
    assert not litter(os, local.where)


def test_files_and_folders_are_closed_to_others(local: LocalStorage) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in local.root.rglob("*")}
    assert modes == {"f": 0o700, "g": 0o700, "beside": 0o600}
    assert stat.S_IMODE(local.root.stat().st_mode) == 0o700


def test_a_root_that_was_removed_is_made_again(local: LocalStorage) -> None:
    (local.root / BESIDE).unlink()
    for folder in ("f/g", "f", "."):
        (local.root / folder).rmdir()
    assert local.entries("f/g") == []
    local.put(KEY, [NEW])
    assert local.read(KEY) == NEW


def test_what_is_not_ours_is_not_listed(local: LocalStorage) -> None:
    (local.root / "lost+found").mkdir()
    (local.root / "f" / "g" / "notes (1).txt").write_bytes(b"1")
    os.close(os.open(os.fsencode(local.root / "f" / "g") + b"/\xff", os.O_CREAT, 0o600))
    assert local.folders("") == ["f"]
    assert [entry.key for entry in local.entries("f/g")] == [BESIDE]
    assert local.tidy("f/g") == 0


# A real full disk


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system in memory."""
    place = tmp_path / "small"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root: run `sudo .venv/bin/python -m pytest tests/crash`")

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"mounting a tmpfs needs CAP_SYS_ADMIN (docker: --privileged): {result.stderr}")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_full_disk(mounted: Callable[[str], Path], if_absent: bool) -> None:
    storage = LocalStorage(mounted("size=1m") / "store")
    older = random.Random(0).randbytes(400_000)
    storage.put("f/older", [older])
    for _ in range(3):
        with pytest.raises(StorageFull, match="f/large") as caught:
            storage.put("f/large", [b"x" * 100_000] * 20, if_absent=if_absent)
        assert "older checkpoints are untouched" in caught.value.hint
        assert not litter(os, storage.where)
    with pytest.raises(StorageFull):
        storage.put("f/older", [b"x" * 2_000_000])
    assert storage.read("f/older") == older
    assert [entry.key for entry in storage.entries("f")] == ["f/older"]
    storage.put("f/large", [b"x" * 400_000], if_absent=if_absent)
    assert storage.read("f/large") == b"x" * 400_000


def test_a_disk_without_inodes(mounted: Callable[[str], Path]) -> None:
    storage = LocalStorage(mounted("size=1m,nr_inodes=8") / "store")
    written = []
    with pytest.raises(StorageFull, match=r"d\d+/k"):
        for i in range(20):
            storage.put(f"d{i}/k", [b"x"])
            written.append(f"d{i}/k")
    assert written
    assert all(storage.read(key) == b"x" for key in written)
    assert not litter(os, storage.where)


# Real processes that are killed


def test_tidy_leaves_other_hosts_a_week(local: LocalStorage) -> None:
    now = (local.root / BESIDE).stat().st_mtime
    for days in (6, 8):
        file = local.root / "f" / "g" / f".tmp-0123456789-1-1-{days}"
        file.write_bytes(b"1")
        os.utime(file, (now - days * 86400, now - days * 86400))
    assert local.tidy("f/g") == 1
    assert [Path(path).name for path in litter(os, local.where)] == [".tmp-0123456789-1-1-6"]


WRITER = """
import os, signal, sys
from perdure.storage import LocalStorage
def chunks():
    yield b"half"
    print("half", flush=True)
    if sys.stdin.readline() != "go on\\n":
        os.kill(os.getpid(), signal.SIGKILL)
    yield b"whole"
LocalStorage(sys.argv[1]).put("f/g/k", chunks(), if_absent=sys.argv[2] == "True")
"""


@pytest.fixture
def writer(local: LocalStorage, if_absent: bool) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of a put; it goes on when told, and otherwise kills itself."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, local.where, str(if_absent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "half\n"
        yield running


@pytest.mark.parametrize("if_absent", [False, True])
def test_tidy_removes_what_a_killed_process_has_left(local: LocalStorage, writer: subprocess.Popen[str]) -> None:
    writer.communicate("die\n")
    assert writer.returncode == -signal.SIGKILL
    assert len(litter(os, local.where)) == 1
    assert [entry.key for entry in local.entries("f/g")] == [BESIDE]
    assert local.tidy("f/g") == 1
    assert litter(os, local.where) == []
    assert local.tidy("f/g") == 0
    assert local.read(BESIDE) == b"beside"


@pytest.mark.parametrize("if_absent", [False, True])
def test_tidy_leaves_a_living_process_alone(local: LocalStorage, writer: subprocess.Popen[str]) -> None:
    assert local.tidy("f/g") == 0
    assert len(litter(os, local.where)) == 1
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert local.read(KEY) == b"halfwhole"
    assert litter(os, local.where) == []
