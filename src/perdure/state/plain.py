"""Plain values as JSON nodes, exactly: what comes back is equal, bit for bit, and of the same type."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import fractions
import pathlib
import struct
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

_SAFE_INT = 2**53  # beyond it, readers in other languages would round


def _float(value: float) -> Any:
    # JSON has no NaN or infinity, and NaN has a payload worth keeping.
    return value if value - value == 0 else ["float", struct.pack(">d", value).hex()]


def _str(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return ["str", _b64(value.encode("utf-8", "surrogatepass"))]
    return value


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _tz(zone: dt.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is dt.timezone:
        name = zone.tzname(None)
        plain = dt.timezone(zone.utcoffset(None)).tzname(None)
        return ["offset", *_delta(zone.utcoffset(None)), None if name == plain else _str(name or "")]
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return ["zone", zone.key]
    raise LookupError  # an own class of time zone: only pickle knows it


def _untz(node: Any) -> dt.tzinfo | None:
    if node is None:
        return None
    if node[0] == "zone":
        return zoneinfo.ZoneInfo(node[1])
    offset = dt.timedelta(*node[1:4])
    return dt.timezone(offset) if node[4] is None else dt.timezone(offset, _unstr(node[4]))


def _delta(value: dt.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _bytes(data: bytes) -> list[Any]:
    return ["bytes", _b64(data)]


_ENCODE: dict[type, Callable[[Any], Any]] = {
    type(None): lambda v: v,
    bool: lambda v: v,
    int: lambda v: v if -_SAFE_INT < v < _SAFE_INT else ["int", hex(v)],
    float: _float,
    str: _str,
    complex: lambda v: ["complex", struct.pack(">dd", v.real, v.imag).hex()],
    type(...): lambda v: ["ellipsis"],
    range: lambda v: ["range", hex(v.start), hex(v.stop), hex(v.step)],
    dt.datetime: lambda v: ["datetime", v.replace(tzinfo=None).isoformat(), v.fold, _tz(v.tzinfo)],
    dt.date: lambda v: ["date", v.isoformat()],
    dt.time: lambda v: ["time", v.replace(tzinfo=None).isoformat(), v.fold, _tz(v.tzinfo)],
    dt.timedelta: lambda v: ["timedelta", *_delta(v)],
    dt.timezone: lambda v: ["tz", _tz(v)],
    zoneinfo.ZoneInfo: lambda v: ["tz", _tz(v)],
    decimal.Decimal: lambda v: ["decimal", str(v)],
    fractions.Fraction: lambda v: ["fraction", hex(v.numerator), hex(v.denominator)],
    uuid.UUID: lambda v: ["uuid", v.hex],
    pathlib.PosixPath: lambda v: ["path", _str(str(v))],
    pathlib.PurePosixPath: lambda v: ["pure-posix-path", _str(str(v))],
    pathlib.PureWindowsPath: lambda v: ["pure-windows-path", _str(str(v))],
}

_DECODE: dict[str, Callable[..., Any]] = {
    "str": lambda data: base64.b64decode(data).decode("utf-8", "surrogatepass"),
    "int": lambda text: int(text, 16),
    "float": lambda text: struct.unpack(">d", bytes.fromhex(text))[0],
    "complex": lambda text: complex(*struct.unpack(">dd", bytes.fromhex(text))),
    "ellipsis": lambda: ...,
    "range": lambda *ends: range(*(int(end, 16) for end in ends)),
    "datetime": lambda text, fold, tz: dt.datetime.fromisoformat(text).replace(fold=fold, tzinfo=_untz(tz)),
    "date": dt.date.fromisoformat,
    "time": lambda text, fold, tz: dt.time.fromisoformat(text).replace(fold=fold, tzinfo=_untz(tz)),
    "timedelta": lambda *parts: dt.timedelta(*parts),
    "tz": _untz,
    "decimal": decimal.Decimal,
    "fraction": lambda *parts: fractions.Fraction(*(int(part, 16) for part in parts)),
    "uuid": lambda text: uuid.UUID(hex=text),
    "path": lambda text: pathlib.Path(_unstr(text)),
    "pure-posix-path": lambda text: pathlib.PurePosixPath(_unstr(text)),
    "pure-windows-path": lambda text: pathlib.PureWindowsPath(_unstr(text)),
    "bytes": base64.b64decode,
}

TAGS = frozenset(_DECODE)


def _unstr(node: Any) -> str:
    return node if isinstance(node, str) else str(decode(node))


def encode(value: Any) -> Any:
    """The node of a plain value; LookupError when it is not plain. Subclasses are not plain."""
    return _ENCODE[type(value)](value)


def decode(node: Any) -> Any:
    """The value of a plain node; LookupError when the tag is none of these."""
    if type(node) is list:
        tag, *arguments = node
        return _DECODE[tag](*arguments)
    return node


def encode_key(key: Any) -> Any:
    """The node of a dict key: plain values, bytes and tuples of them; LookupError for any other."""
    if type(key) is tuple:
        return ["tuple", *map(encode_key, key)]
    if type(key) is frozenset:
        return ["frozenset", *map(encode_key, key)]
    return _bytes(key) if type(key) is bytes else encode(key)


def decode_key(node: Any) -> Any:
    """The key of a node from `encode_key`."""
    if type(node) is list and node[0] == "tuple":
        return tuple(map(decode_key, node[1:]))
    if type(node) is list and node[0] == "frozenset":
        return frozenset(map(decode_key, node[1:]))
    return decode(node)
