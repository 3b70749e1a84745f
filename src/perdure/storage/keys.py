"""Turn any name into a safe key, and refuse keys that are not."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from blake3 import blake3

from perdure.errors import StorageError, UsageError

_SEGMENT = re.compile(r"[A-Za-z0-9_%=~-][A-Za-z0-9._%=~-]{0,254}")
_LONGEST = 180


def encode_name(name: str) -> str:
    """One path segment for `name`: percent-encoded UTF-8, or a hashed ending where that would be too long.

    Raises UsageError for what is no name: not a string, empty, with a NUL, or not encodable as UTF-8.
    """
    if type(name) is not str or not name or "\0" in name:
        raise UsageError(f"{name!r} is not a name", hint="use a non-empty string without NUL")
    try:
        segment = quote(name, safe="")
    except UnicodeEncodeError:
        raise UsageError(f"{name!r} is not valid Unicode", hint="use a string without lone surrogates") from None
    if segment.startswith("."):
        segment = "%2E" + segment[1:]
    if len(segment) > _LONGEST:
        # `=` never comes out of quote(), so a hashed name cannot meet a plain one.
        segment = f"{segment[:120]}={blake3(name.encode()).hexdigest(length=16)}"
    return segment


def decode_name(segment: str) -> str | None:
    """The name behind a segment, or None where it was hashed and only the manifests know."""
    return None if "=" in segment else unquote(segment)


def is_segment(name: str) -> bool:
    """Whether a file or folder of this name can be one of ours."""
    return _SEGMENT.fullmatch(name) is not None


def check_key(key: str) -> list[str]:
    """Split a key into its segments; StorageError unless each is safe on every storage."""
    segments = key.split("/")
    for segment in segments:
        if not is_segment(segment):
            raise StorageError(f"{key!r} is not a valid key: segment {segment!r}", hint="encode names first")
    return segments


def check_folder(folder: str) -> list[str]:
    """Like `check_key`, for a folder; the top, "", has no segments."""
    return check_key(folder) if folder else []
