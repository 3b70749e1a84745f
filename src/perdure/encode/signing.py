"""Sign what would run code on load, with a key that lies outside every store."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from perdure.config import Settings
from perdure.errors import UsageError

_KEY_BYTES = 32


class Signer:
    """One secret key: signs manifests with HMAC-SHA256, and leaves with keyed BLAKE3."""

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise UsageError(f"a signing key has {_KEY_BYTES} bytes, this one {len(key)}")
        self._manifest_key = blake3(key, derive_key_context="perdure 2026 manifest").digest()
        self._leaf_key = blake3(key, derive_key_context="perdure 2026 leaf").digest()
        self.key_id = blake3(key, derive_key_context="perdure 2026 key id").hexdigest(length=8)

    def sign(self, body: bytes) -> str:
        """The signature of a manifest's body, in hexadecimal."""
        return hmac.new(self._manifest_key, body, hashlib.sha256).hexdigest()

    def verify(self, body: bytes, signature: str) -> bool:
        """Whether the signature is right, in constant time."""
        return hmac.compare_digest(self.sign(body).encode(), signature.encode())

    def leaf_mac(self, data: bytes | bytearray | memoryview) -> str:
        """A digest of a leaf that nobody without the key can make, in hexadecimal."""
        return blake3(data, key=self._leaf_key).hexdigest()


def signer(settings: Settings, *, create: bool) -> Signer | None:
    """The signer of this user: from the environment, the named file, or the config directory.

    With `create`, a key is made on first use, with mode 0600. None when there is no key and none is wanted.
    Raises UsageError for a key that cannot be read, is malformed, or lies open to others.
    """
    if settings.signing_key is not None:
        return Signer(_parse(settings.signing_key, "PERDURE_SIGNING_KEY"))
    if settings.signing_key_file is not None:
        return Signer(_load(settings.signing_key_file))
    path = settings.config_dir / "signing.key"
    if not path.exists():
        if not create:
            return None
        _make(path)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UsageError(f"others can read the signing key {path}", hint=f"chmod 600 {path}")
    return Signer(_load(path))


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "w") as out:
            out.write(secrets.token_hex(_KEY_BYTES) + "\n")
            out.flush()
            os.fsync(out.fileno())
        # Of two processes that start at once the first one's key counts for both.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def _load(path: Path) -> bytes:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the signing key {path}: {error}") from error
    return _parse(text, str(path))


def _parse(text: str, source: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise UsageError(f"{source} holds no signing key", hint=f"it must be {2 * _KEY_BYTES} hexadecimal digits")
    return key
