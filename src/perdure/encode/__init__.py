"""Leaves to bytes and back: packs, digests, compression, signatures."""

from perdure.encode.digest import ALGORITHM, digest
from perdure.encode.pack import Piece, lay_out
from perdure.encode.signing import Signer, signer

__all__ = ["ALGORITHM", "Piece", "Signer", "digest", "lay_out", "signer"]
