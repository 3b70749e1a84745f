"""Lay leaves out as a safetensors file, so that whatever reads safetensors reads ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from perdure.state import Spec

# The page size: the first tensor starts on one, for readers that map the file.
_ALIGN = 4096

# Our dtype names (torch's, and NumPy's little-endian codes) to those of safetensors; all others go as bytes.
_DTYPES = {
    "bool": "BOOL", "|b1": "BOOL",
    "uint8": "U8", "|u1": "U8",
    "int8": "I8", "|i1": "I8",
    "int16": "I16", "<i2": "I16",
    "uint16": "U16", "<u2": "U16",
    "float16": "F16", "<f2": "F16",
    "bfloat16": "BF16",
    "int32": "I32", "<i4": "I32",
    "uint32": "U32", "<u4": "U32",
    "float32": "F32", "<f4": "F32",
    "float64": "F64", "<f8": "F64",
    "int64": "I64", "<i8": "I64",
    "uint64": "U64", "<u8": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """A leaf as it will be stored: its path, its spec, its bytes, and the codec that made them ("" for none)."""

    path: str
    spec: Spec
    data: memoryview | bytes
    codec: str = ""


def lay_out(pieces: Sequence[Piece]) -> tuple[bytes, list[Piece], list[int]]:
    """The header, the pieces in the order of the file, and the offset of each from the start of the file.

    Wide dtypes come first, so that every tensor is aligned to its own width without holes, which the format
    does not allow.
    """
    ordered = sorted(pieces, key=lambda piece: (-_width(piece), piece.path))
    header: dict[str, object] = {}
    starts, position = [], 0
    for piece in ordered:
        end = position + len(piece.data)
        dtype = _dtype(piece)
        shape = list(piece.spec.shape) if dtype else [len(piece.data)]
        # The one name that the format keeps for itself; ours is only a label, offsets are in the manifest.
        label = f"{piece.path}~" if piece.path == "__metadata__" else piece.path
        header[label] = {"dtype": dtype or "U8", "shape": shape, "data_offsets": [position, end]}
        starts.append(position)
        position = end
    text = msgspec.json.encode(header)
    padded = -(-(len(text) + 8) // _ALIGN) * _ALIGN
    first = (padded - 8).to_bytes(8, "little") + text.ljust(padded - 8)
    return first, ordered, [padded + start for start in starts]


def _dtype(piece: Piece) -> str | None:
    return None if piece.codec else _DTYPES.get(piece.spec.dtype)


def _width(piece: Piece) -> int:
    count = 1
    for size in piece.spec.shape:
        count *= size
    return len(piece.data) // count if count and _dtype(piece) else 1
