"""Damaged, exchanged and planted files: the right data or an error that says why, and no foreign code."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import perdure.restore
from perdure import CheckpointStore, Run
from perdure.catalog import manifest as manifests
from perdure.catalog.manifest import LeafEntry, Manifest
from perdure.config import Settings
from perdure.encode import digest, signer
from perdure.errors import (
    CheckpointNotFound,
    DamagedError,
    FencedError,
    MismatchError,
    PerdureError,
    StorageError,
    UntrustedError,
    UsageError,
)
from perdure.events import Event, listening
from perdure.storage import MemoryStorage

KEY = "checkpoints/x/{:010d}.manifest"


@dataclass
class Point:
    """A class that has to be imported, so that its manifest is signed."""

    x: int
    y: np.ndarray = field(default_factory=lambda: np.zeros(2))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.x == other.x and np.array_equal(self.y, other.y)


class Custom:
    """Something that only pickle can carry."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Custom) and self.value == other.value


class Bomb:
    """Makes a directory when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and bool(a == b)


def small(step: int) -> dict[str, Any]:
    return {"n": np.arange(4) + step, "t": f"step {step}", "b": bytes([step]) * 70}


def signed(step: int) -> dict[str, Any]:
    return {"p": Point(step), "c": Custom(step)}


def big(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {"w": rng.standard_normal(120_000), "v": rng.standard_normal(50_000).astype("f4"), "step": step}


def load(store: CheckpointStore) -> tuple[Any, list[str], PerdureError | None]:
    """What `load` gives: the state, or the error, and what was told on the way."""
    events: list[Event] = []
    with listening(events.append):
        try:
            return store.load("x"), [event.kind for event in events], None
        except PerdureError as error:
            return None, [event.kind for event in events], error


def check(store: CheckpointStore, good: list[Any], where: str) -> str:
    """Nothing but one of the good states (newest first), or an error that names the store's file."""
    state, events, error = load(store)
    if error is not None:
        assert isinstance(error, DamagedError | UntrustedError | StorageError), repr(error)
        assert where in str(error), str(error)
        return type(error).__name__
    place = [index for index, one in enumerate(good) if same(state, one)]
    assert place, "wrong data"
    if place[0] > 0:
        assert "restore.set-aside" in events
    return f"good {place[0]}"


# One bit, or the length, of a manifest.


def in_memory(make: Callable[[int], Any], versions: int) -> tuple[CheckpointStore, MemoryStorage]:
    storage = MemoryStorage("flips")
    store = CheckpointStore(storage)
    for step in range(1, versions + 1):
        store.save("x", make(step), step=step, metadata={"loss": 0.5})
    return store, storage


def flips(make: Callable[[int], Any], bits: Callable[[int], list[int]]) -> set[str]:
    store, storage = in_memory(make, 2)
    good = [make(2), make(1)]
    key = KEY.format(2)
    data = storage.read(key)
    seen = set()
    for index in range(len(data)):
        for bit in bits(index):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            storage.put(key, [damaged])
            seen.add(check(store, good, "memory://flips"))
            storage.delete("checkpoints/x/0000000002.bad")
    storage.put(key, [data])
    assert check(store, good, "") == "good 0"
    return seen


@pytest.mark.parametrize("make", [small, signed])
def test_one_bit_of_every_byte_of_a_manifest(make: Callable[[int], Any]) -> None:
    seen = flips(make, lambda index: [index % 8])
    assert "good 1" in seen
    assert "good 0" not in seen, "a bit of the manifest that nothing protects"


@pytest.mark.slow
@pytest.mark.parametrize("make", [small, signed])
def test_every_bit_of_a_manifest(make: Callable[[int], Any]) -> None:
    assert "good 0" not in flips(make, lambda index: list(range(8)))


@pytest.mark.parametrize("make", [small, signed])
def test_a_manifest_cut_or_extended_at_every_length(make: Callable[[int], Any]) -> None:
    store, storage = in_memory(make, 2)
    key = KEY.format(2)
    data = storage.read(key)
    for damaged in [*(data[:end] for end in range(len(data))), data + b"\0", data + b"x" * 5000, data + data]:
        storage.put(key, [damaged])
        assert check(store, [make(2), make(1)], "") == "good 1"
        storage.delete("checkpoints/x/0000000002.bad")


def test_flips_with_no_older_version_name_the_file() -> None:
    store, storage = in_memory(small, 1)
    data = storage.read(KEY.format(1))
    for index in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[index] ^= 1
        storage.put(KEY.format(1), [damaged])
        _, _, error = load(store)
        assert isinstance(error, DamagedError)
        assert "memory://flips/checkpoints/x/0000000001.manifest: " in str(error)
        storage.delete("checkpoints/x/0000000001.bad")


# Files of a store with packs, each kind of damage at each kind of place.


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed") / "store"
    store = CheckpointStore(root)
    for step in (1, 2):
        store.save("x", big(step), step=step)
    return root


def pack_of(root: Path, version: int) -> Path:
    (path,) = (root / "checkpoints/x/packs").glob(f"{version:010d}-*")
    return path


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def manifest_of(root: Path, version: int) -> Path:
    return root / KEY.format(version)


OUTSIDE = Path("/etc/hostname")
DAMAGES: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "pack header": (lambda r: flip(pack_of(r, 2), 20), {"good 0"}),
    "pack padding": (lambda r: flip(pack_of(r, 2), 4000), {"good 0"}),
    "pack first byte": (lambda r: flip(pack_of(r, 2), 4096), {"good 1"}),
    "pack middle": (lambda r: flip(pack_of(r, 2), 500_000), {"good 1"}),
    "pack last byte": (lambda r: flip(pack_of(r, 2), -1), {"good 1"}),
    "pack cut": (lambda r: os.truncate(pack_of(r, 2), 700_000), {"good 1"}),
    "pack cut by one": (lambda r: os.truncate(pack_of(r, 2), pack_of(r, 2).stat().st_size - 1), {"good 1"}),
    "pack extended": (lambda r: pack_of(r, 2).open("ab").write(b"x"), {"good 1"}),
    "pack empty": (lambda r: os.truncate(pack_of(r, 2), 0), {"good 1"}),
    "pack zeroed": (lambda r: pack_of(r, 2).write_bytes(bytes(pack_of(r, 2).stat().st_size)), {"good 1"}),
    "pack missing": (lambda r: pack_of(r, 2).unlink(), {"good 1"}),
    "all packs missing": (lambda r: shutil.rmtree(r / "checkpoints/x/packs"), {"DamagedError"}),
    "pack of another version": (
        lambda r: shutil.copy(pack_of(r, 1), pack_of(r, 2)),
        {"good 1"},
    ),
    "packs swapped": (lambda r: swap(pack_of(r, 1), pack_of(r, 2)), {"DamagedError"}),
    "pack a link": (lambda r: replace(pack_of(r, 2), lambda p: p.symlink_to(OUTSIDE)), {"good 1"}),
    "pack a FIFO": (lambda r: replace(pack_of(r, 2), os.mkfifo), {"good 1"}),
    "pack a directory": (lambda r: replace(pack_of(r, 2), Path.mkdir), {"good 1"}),
    "packs a link": (
        lambda r: (
            shutil.move(r / "checkpoints/x/packs", r.parent / "elsewhere"),
            (r / "checkpoints/x/packs").symlink_to(r.parent / "elsewhere"),
        ),
        {"StorageError"},
    ),
    "manifest empty": (lambda r: os.truncate(manifest_of(r, 2), 0), {"good 1"}),
    "manifest zeroed": (lambda r: manifest_of(r, 2).write_bytes(bytes(900)), {"good 1"}),
    "manifests swapped": (lambda r: swap(manifest_of(r, 1), manifest_of(r, 2)), {"DamagedError"}),
    "an older manifest replayed": (lambda r: shutil.copy(manifest_of(r, 1), manifest_of(r, 3)), {"good 0"}),
    "manifest a directory": (lambda r: manifest_of(r, 3).mkdir(), {"good 0"}),
    "manifest a FIFO": (lambda r: os.mkfifo(manifest_of(r, 3)), {"good 0"}),
    "manifest a link": (lambda r: manifest_of(r, 3).symlink_to(manifest_of(r, 1)), {"good 0"}),
    "newest manifest gone": (lambda r: manifest_of(r, 2).unlink(), {"good 1"}),
    "marker of the newest": (lambda r: manifest_of(r, 2).with_suffix(".bad").write_bytes(b"{}"), {"good 1"}),
    "marker damaged": (lambda r: manifest_of(r, 2).with_suffix(".bad").write_bytes(b"\xff\0"), {"good 1"}),
    "marker of none": (lambda r: manifest_of(r, 9).with_suffix(".bad").write_bytes(b""), {"good 0"}),
    "lease damaged": (lambda r: (r / "checkpoints/x/lease").write_bytes(b"\0\0"), {"good 0"}),
    "lease a FIFO": (lambda r: os.mkfifo(r / "checkpoints/x/lease"), {"good 0"}),
    "litter": (lambda r: (r / "checkpoints/x/.tmp-x").write_bytes(b"x"), {"good 0"}),
}


@pytest.mark.parametrize("label", DAMAGES)
def test_damage_of_every_kind(packed: Path, tmp_path: Path, label: str) -> None:
    damage, allowed = DAMAGES[label]
    root = tmp_path / "store"
    shutil.copytree(packed, root)
    damage(root)
    store = CheckpointStore(root)
    state, events, error = load(store)
    if error is None:
        outcome = "good 0" if same(state, big(2)) else "good 1" if same(state, big(1)) else "wrong data"
    else:
        outcome = type(error).__name__
        assert str(root) in str(error)
    assert outcome in allowed, (outcome, events, error)


@pytest.mark.parametrize("label", DAMAGES)
def test_the_save_after_any_damage_is_whole_or_says_what_stands_in_the_way(
    packed: Path, tmp_path: Path, label: str
) -> None:
    root = tmp_path / "store"
    shutil.copytree(packed, root)
    DAMAGES[label][0](root)
    store = CheckpointStore(root)
    for state in (big(3), big(2)):  # the second one has what the damaged version had
        load(store)
        try:
            store.save("x", state)
        except StorageError as error:
            assert not isinstance(error, FencedError)
            assert "remove it" in str(error) or "move it away" in str(error)
            return
        assert same(store.load("x"), state)


def test_unchanged_leaves_are_not_shared_with_a_pack_that_is_gone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    store.save("x", big(1))
    pack_of(store.storage.root, 1).unlink()  # type: ignore[attr-defined]
    store.save("x", big(1))  # nobody has loaded it in between
    assert same(store.load("x"), big(1))


def test_a_run_goes_on_after_its_lease_file_was_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    for lease in (b"", b"junk", b"\0" * 100, b"{}"):
        folder = tmp_path / "store/checkpoints/x"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lease").write_bytes(lease)
        with Run("x", {"n": 0}, store=store) as run:
            for _ in run.range(1):
                run.step()
        assert not (folder / "lease").exists()


def test_something_that_is_no_file_at_the_next_version_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "store")
    store.save("x", 1)
    os.mkfifo(manifest_of(tmp_path / "store", 2))
    with pytest.raises(StorageError, match=r"0000000002\.manifest .* not a file"):
        store.save("x", 2)
    assert store.load("x") == 1


def test_a_long_name_with_a_damaged_manifest_does_not_hide_the_others() -> None:
    storage = MemoryStorage()
    store = CheckpointStore(storage)
    store.save("n" * 300, 1)
    store.save("other", 1)
    (segment,) = (one for one in storage.folders("checkpoints") if one != "other")
    storage.put(f"checkpoints/{segment}/0000000001.manifest", [b"junk"])
    assert [one.name for one in store.list()] == ["other"]


# Planted pickles, each with every digest right.


def rewrite(storage: Any, version: int, change: Callable[[dict[str, Any], bytearray], None], **header: Any) -> None:
    """Alter body and payload of a manifest and make all its digests right; the signature stays as it was."""
    key = KEY.format(version)
    data = storage.read(key)
    line, _, rest = data.partition(b"\n")
    head = msgspec.json.decode(line)
    body, payload = msgspec.json.decode(rest[: head["body"]]), bytearray(rest[head["body"] + 1 :])
    change(body, payload)
    for leaf in body["leaves"].values():
        if not leaf["pack"]:
            leaf["digest"] = digest(payload[leaf["offset"] : leaf["offset"] + leaf["length"]])
    text = msgspec.json.encode(body)
    head |= {"body": len(text), "payload": len(payload), "digest": digest(text)}
    head = {name: value for name, value in (head | header).items() if value is not None}
    storage.put(key, [msgspec.json.encode(head) + b"\n" + text + b"\n" + payload])


def plant(storage: MemoryStorage, tree: Any, leaves: dict[str, LeafEntry], payload: bytes = b"") -> None:
    manifest = Manifest("x", 1, "checkpoint", "stamp", 0.0, tree=tree, context=tree, leaves=leaves)
    storage.put(KEY.format(1), manifests.encode(manifest, [payload], None))


def everything_but_load(store: CheckpointStore) -> None:
    """What must never unpickle."""
    store.list()
    store.names()
    store.exists("x")
    list(store.catalog.survey("x"))
    for checkpoint in store.list("x"):
        with suppress(DamagedError):
            store.verify("x", checkpoint.version)


TREES: dict[str, Any] = {
    "leaf": ["leaf", "evil"],
    "in a dict": {"a": ["list", ["leaf", "evil"]]},
    "stateful": ["stateful", ["leaf", "evil"]],
    "attribute": ["odict", {"x": ["leaf", "evil"]}],
    "view": ["torch.view", "evil", "float32", [1], [1], 0, {}],
    "generator": ["torch.generator", "cpu", ["leaf", "evil"]],
    "numpy generator": ["numpy.generator", "PCG64", ["leaf", "evil"]],
    "random state": ["numpy.random_state", ["leaf", "evil"]],
    "python random": ["random.state", 3, ["leaf", "evil"], None],
}
KINDS = ["object", "object.x", "bytes.x", "bytearray.x", "objects", "random", "torch.storage", "numpy.object"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", TREES)
def test_an_unsigned_pickle_does_not_run(tmp_path: Path, kind: str, label: str) -> None:
    target = tmp_path / "pwned"
    data = pickle.dumps(Bomb(target))
    storage = MemoryStorage()
    leaf = LeafEntry(kind, "bytes", (len(data),), len(data), digest(data), "", 0, len(data))
    plant(storage, TREES[label], {"evil": leaf}, data)
    store = CheckpointStore(storage)
    everything_but_load(store)
    with suppress(PerdureError):  # as bytes it may well be loaded
        store.load("x")
    with suppress(PerdureError, AttributeError), Run("x", None, store=store):
        pass
    assert not target.exists()


def test_the_planted_pickle_is_a_live_one(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    store = CheckpointStore(MemoryStorage())
    store.save("x", Bomb(target))
    store.load("x", trust=True)
    assert target.exists()


@pytest.mark.parametrize("dtype", ["|O", [["a", "|O"]]])
def test_object_arrays_are_not_made_from_bytes(dtype: Any) -> None:
    storage = MemoryStorage()
    leaf = LeafEntry("numpy", "|O", (2,), 16, digest(bytes(16)), "", 0, 16, meta={"descr": dtype})
    plant(storage, {"a": ["leaf", "evil"]}, {"evil": leaf}, bytes(16))
    with pytest.raises(MismatchError):
        CheckpointStore(storage).load("x")
    storage.delete("checkpoints/x/0000000001.bad")
    plant(storage, ["numpy.scalar", dtype, ["bytes", "AAAAAAAAAAA="]], {})
    with pytest.raises(MismatchError):
        CheckpointStore(storage).load("x")


@pytest.mark.parametrize("where", ["manifest", "pack"])
def test_an_altered_pickle_does_not_run(tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "pwned"
    storage = MemoryStorage()
    store = CheckpointStore(storage)
    store.save("x", Custom(1))
    store.save("x", {"c": Custom(2), "w": np.zeros(200_000 if where == "pack" else 2)})
    evil = pickle.dumps(Bomb(target))

    def change(body: dict[str, Any], payload: bytearray) -> None:
        leaf = body["leaves"]["c"]
        if leaf["pack"]:
            key = f"checkpoints/x/{leaf['pack']}"
            data = bytearray(storage.read(key))
            data[leaf["offset"] : leaf["offset"] + leaf["length"]] = evil
            storage.put(key, [data])
            body["packs"][leaf["pack"]]["size"] = len(data)
            leaf["digest"] = digest(evil)
            body["leaves"].pop("w")
            body["tree"].pop("w")
        else:
            payload[leaf["offset"] : leaf["offset"] + leaf["length"]] = evil
            body["leaves"] = {"c": leaf}
            body["tree"] = {"c": ["leaf", "c"]}
        leaf |= {"length": len(evil), "nbytes": len(evil), "shape": [len(evil)]}

    rewrite(storage, 2, change)
    everything_but_load(store)
    storage.delete("checkpoints/x/0000000002.bad")
    events: list[Event] = []
    with listening(events.append):
        assert store.load("x") == Custom(1)
    assert any("altered after it was signed" in event.data.get("why", "") for event in events)
    rewrite(storage, 2, lambda body, payload: None, key=None, mac=None)
    storage.delete("checkpoints/x/0000000002.bad")
    with pytest.raises(UntrustedError, match=r"0000000002\.manifest"):
        store.load("x")
    assert not target.exists()


def test_bytes_with_the_digest_of_a_signed_pickle_do_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XXH3 can be forged: what the manifest signs must not rest on it."""
    target = tmp_path / "pwned"
    storage = MemoryStorage()
    store = CheckpointStore(storage)
    store.save("x", Custom(10**1000))
    real = pickle.dumps(Bomb(target))
    data = storage.read(KEY.format(1))
    (leaf,) = store.catalog.read("x", storage.entries("checkpoints/x")[0]).manifest.leaves.values()
    evil = real.ljust(leaf.length, b"\0")[: leaf.length]
    assert evil.startswith(real)
    storage.put(KEY.format(1), [data[: len(data) - leaf.length], evil])
    monkeypatch.setattr(perdure.restore, "digest", lambda *parts: leaf.digest)
    with pytest.raises(DamagedError, match="altered"):
        store.load("x")
    assert not target.exists()


def other_settings(tmp_path: Path) -> Settings:
    return Settings.read({"HOME": str(tmp_path), "PERDURE_CONFIG_DIR": str(tmp_path / "other")})


def test_a_foreign_signature_is_worth_nothing(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    storage = MemoryStorage()
    CheckpointStore(storage, settings=other_settings(tmp_path)).save("x", {"evil": Bomb(target)})
    store = CheckpointStore(storage)
    everything_but_load(store)
    with pytest.raises(UntrustedError, match="PERDURE_SIGNING_KEY"):
        store.load("x")
    store.save("y", Custom(1))  # now this user has a key too
    with pytest.raises(UntrustedError):
        store.load("x")
    assert not target.exists()


def test_a_foreign_manifest_with_our_key_id_is_damaged(tmp_path: Path) -> None:
    target = tmp_path / "pwned"
    storage = MemoryStorage()
    store = CheckpointStore(storage)
    store.save("y", Custom(1))
    ours = signer(store.settings, create=False)
    assert ours is not None
    CheckpointStore(storage, settings=other_settings(tmp_path)).save("x", {"evil": Bomb(target)})
    for mac in ("0" * 64, "", "\N{SNOWMAN}"):
        rewrite(storage, 1, lambda body, payload: None, key=ours.key_id, mac=mac)
        with pytest.raises((DamagedError, UntrustedError), match="x/0000000001"):
            store.load("x")
        storage.delete("checkpoints/x/0000000001.bad")
    assert not target.exists()


def test_a_signed_manifest_stays_under_its_name_and_version(tmp_path: Path) -> None:
    storage = MemoryStorage()
    store = CheckpointStore(storage)
    store.save("x", Custom(1))
    store.save("x", Custom(2))
    storage.put(KEY.format(3), [storage.read(KEY.format(1))])
    assert store.load("x") == Custom(2)
    storage.put("checkpoints/y/0000000001.manifest", [storage.read(KEY.format(1))])
    with pytest.raises(DamagedError, match="it is the manifest of 'x' version 1"):
        store.load("y")


def test_a_planted_class_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "perdure_planted.py").write_text(f"import os; os.mkdir({str(tmp_path / 'pwned')!r})\nclass C: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for tree in (
        ["class", "perdure_planted:C", "dataclass", {}],
        ["class", "perdure_planted:C", "enum", "A"],
        ["class", "os:mkdir", "namedtuple", str(tmp_path / "pwned")],
    ):
        storage = MemoryStorage()
        plant(storage, tree, {})
        store = CheckpointStore(storage)
        everything_but_load(store)
        with pytest.raises(UntrustedError):
            store.load("x")
    assert "perdure_planted" not in sys.modules
    assert not (tmp_path / "pwned").exists()


# Names.


NAMES = [
    "../x", "..", ".", "/etc/passwd", "a/b", "a%2Fb", "a\\b", ".hidden", " ", "-rf", "~", "=", "%", "%2E", "%00",
    "lease", "packs", "checkpoints", "0000000001.manifest", "a\nb", "x" * 300, "x" * 301, "../" * 100, "ü" * 100,
    "名前", "🙂" * 60,
]  # fmt: skip


def test_any_name_is_kept_inside_and_apart(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "in" / "store")
    for name in NAMES:
        store.save(name, {"name": name})
    assert {name: store.load(name)["name"] for name in NAMES} == {name: name for name in NAMES}
    assert store.names() == sorted(NAMES)
    assert len(store.list()) == len(NAMES)
    assert {path.name for path in tmp_path.iterdir()} <= {"in", ".perdure-config", ".perdure-cache"}
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["store"]
    assert [path.name for path in (tmp_path / "in/store").iterdir()] == ["checkpoints"]
    for name in NAMES:
        store.delete(name)
    assert store.names() == []


@pytest.mark.parametrize("name", ["", "a\0b", "\ud800", 5, None, b"x"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: Any) -> None:
    store = CheckpointStore(tmp_path)
    for call in (lambda: store.save(name, 1), lambda: store.load(name), lambda: store.delete(name)):
        with pytest.raises(UsageError, match="is not"):
            call()
    with pytest.raises(UsageError), Run(name, store=store):
        pass


def test_an_absent_name_is_absent(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointNotFound):
        store.load("x")
