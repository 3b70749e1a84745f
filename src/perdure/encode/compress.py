"""Compress leaves with Zstandard."""

from __future__ import annotations

from perdure.errors import DamagedError, MissingExtraError

try:
    import zstandard
except ImportError as error:
    raise MissingExtraError.of("zstandard", "zstd") from error


class Zstd:
    """Codec `zstd`: one frame a leaf."""

    def compress(self, data: memoryview | bytes, level: int) -> bytes:
        """The frame, with the size of the content in it."""
        return zstandard.ZstdCompressor(level=level).compress(data)

    def decompress(self, data: bytes, out: memoryview) -> None:
        """Fill `out`, exactly; DamagedError when the frame is broken or of another size."""
        try:
            # The limit comes from the manifest, never from the frame: a bomb allocates nothing.
            raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=len(out))
        except zstandard.ZstdError as error:
            raise DamagedError(f"a compressed leaf cannot be read: {error}") from error
        if len(raw) != len(out):
            raise DamagedError(f"a compressed leaf has {len(raw)} bytes, not {len(out)}")
        out[:] = raw


ZSTD = Zstd()
