"""Digests against damage; what must withstand an attacker is signed instead."""

from __future__ import annotations

import xxhash

ALGORITHM = "xxh3-128"


def digest(*parts: bytes | bytearray | memoryview) -> str:
    """XXH3-128 of the concatenated parts, in hexadecimal."""
    if len(parts) == 1:
        return xxhash.xxh3_128_hexdigest(parts[0])
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.hexdigest()
