"""The record that makes a checkpoint exist: its bytes, both directions.

    {"perdure": 1, "body": 512, "payload": 80, "digest": "...", "key": "...", "mac": "..."}\\n
    <body: JSON of `body` bytes>\\n
    <payload: `payload` bytes of small leaves>

`digest` is of the body; `mac`, over the same bytes, is there when rebuilding the state would run code. The
body holds the digests of all leaves, those in the payload included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from perdure.encode import ALGORITHM, Signer, digest
from perdure.errors import DamagedError, FormatError
from perdure.state import Spec

FORMAT = 1
_LONGEST_HEADER = 1024


class LeafEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a leaf is, and where its bytes are: `pack` is a key beside the manifest, "" is the payload."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    digest: str
    pack: str
    offset: int
    length: int
    codec: str = ""
    mac: str = ""
    meta: dict[str, Any] = {}

    @property
    def spec(self) -> Spec:
        return Spec(self.kind, self.dtype, self.shape, self.nbytes, self.meta)


class PackEntry(msgspec.Struct, frozen=True):
    """A pack file: its size, and the size and digest of its header, which only readers of safetensors need."""

    size: int
    header: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version of one name. `kind` is `checkpoint`, or `fence` where a new holder only marks its takeover."""

    name: str
    version: int
    kind: str
    stamp: str
    created: float
    step: int | None = None
    tree: Any = None
    context: Any = None
    leaves: dict[str, LeafEntry] = {}
    packs: dict[str, PackEntry] = {}
    metadata: dict[str, Any] = {}
    info: dict[str, Any] = {}
    digest: str = ALGORITHM

    @property
    def nbytes(self) -> int:
        """Bytes of the state itself."""
        return sum(leaf.nbytes for leaf in self.leaves.values())


class _Format(msgspec.Struct, frozen=True):
    perdure: int


class _Header(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    perdure: int
    body: int
    payload: int
    digest: str
    key: str = ""
    mac: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A manifest as read: checked against its digest, not yet against any signature."""

    manifest: Manifest
    body: bytes
    payload: memoryview
    payload_size: int
    key_id: str
    mac: str

    def signed_by(self, signer: Signer | None) -> bool:
        """Whether a key known here has signed it. DamagedError when that key says it was altered since."""
        if signer is None or not self.mac or self.key_id != signer.key_id:
            return False
        if not signer.verify(self.body, self.mac):
            raise DamagedError("its signature does not match: it was altered after it was signed")
        return True


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A committed checkpoint.

    `created` is in Unix seconds, `nbytes` the size of the state, `written` the bytes that the save wrote.
    `metadata` is the user's, `info` perdure's own: host, process, versions, the decision that led to it.
    """

    name: str
    version: int
    step: int | None
    created: float
    nbytes: int
    written: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> Checkpoint:
        return cls(
            manifest.name,
            manifest.version,
            manifest.step,
            manifest.created,
            manifest.nbytes,
            int(manifest.info.get("written", 0)),
            manifest.metadata,
            manifest.info,
        )


def encode(manifest: Manifest, payload: Sequence[bytes | memoryview], signer: Signer | None) -> list[Any]:
    """The chunks of the file; signed when a signer is given."""
    body = msgspec.json.encode(manifest)
    header = _Header(
        perdure=FORMAT,
        body=len(body),
        payload=sum(map(len, payload)),
        digest=digest(body),
        key=signer.key_id if signer else "",
        mac=signer.sign(body) if signer else "",
    )
    return [msgspec.json.encode(header) + b"\n" + body + b"\n", *payload]


def decode(data: bytes, size: int) -> Record:
    """Check and parse the start of a manifest of `size` bytes; the payload holds as much of it as `data` does.

    Raises DamagedError, saying what is wrong, unless header, length and digest all agree; FormatError for what a
    newer perdure wrote.
    """
    header, start = read_header(data)
    end = start + header.body
    body = data[start:end]
    whole = digest(body) == header.digest and data[end : end + 1] == b"\n"
    if header.perdure > FORMAT and not whole:
        # With a right digest it would be one of ours, and only the number damaged.
        raise _newer(header.perdure)
    if size != end + 1 + header.payload:
        raise DamagedError(f"it has {size} bytes instead of {end + 1 + header.payload}")
    if not whole:
        raise DamagedError("its digest does not match")
    if header.perdure != FORMAT:
        raise DamagedError(f"its header claims format {header.perdure}")
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"its body makes no sense: {error}") from error
    if manifest.digest != ALGORITHM:
        raise DamagedError(f"its leaves have digests of an unknown kind, {manifest.digest!r}")
    return Record(manifest, body, memoryview(data)[end + 1 :], header.payload, header.key, header.mac)


def read_header(data: bytes) -> tuple[_Header, int]:
    """The header line and the offset of the body. Raises DamagedError when there is none."""
    end = max(data.find(b"\n", 0, _LONGEST_HEADER), 0)
    try:
        header = msgspec.json.decode(data[:end], type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            if (number := msgspec.json.decode(data[:end], type=_Format).perdure) > FORMAT:
                raise _newer(number) from error
        raise DamagedError("its header makes no sense") from error
    if header.body < 0 or header.payload < 0:
        raise DamagedError("its header claims negative sizes")
    return header, end + 1


def _newer(number: int) -> FormatError:
    return FormatError(f"it is of format {number}, this perdure reads {FORMAT}", hint="upgrade perdure")
