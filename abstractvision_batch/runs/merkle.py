"""A Merkle root over leaves that come one by one: the tree of RFC 6962, in memory that grows with its height alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_LEAF, _NODE = b"\x00", b"\x01"


class MerkleTree:
    """Leaves in order; two sequences have one root only if they are equal."""

    def __init__(self) -> None:
        self._whole: list[tuple[int, bytes]] = []
        """Roots of whole subtrees with their heights, the tallest first."""

    def add(self, fields: Iterable[str]) -> None:
        """Add one leaf."""
        digest = hashlib.sha256(_LEAF + "\n".join(fields).encode()).digest()
        height = 0
        while self._whole and self._whole[-1][0] == height:
            digest = _join(self._whole.pop()[1], digest)
            height += 1
        self._whole.append((height, digest))

    def root(self) -> str:
        """64 hex digits; that of no leaf is the hash of nothing."""
        if not self._whole:
            return hashlib.sha256().hexdigest()
        digest = self._whole[-1][1]
        for _, left in reversed(self._whole[:-1]):
            digest = _join(left, digest)
        return digest.hex()


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
