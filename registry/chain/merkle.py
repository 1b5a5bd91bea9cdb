"""One digest for many rows: the root of a Merkle tree over their leaves, as RFC 6962 builds it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

LEAF, NODE = b"\x00", b"\x01"
"""Keep a leaf from passing for a node."""


def leaf(content: bytes) -> bytes:
    """The leaf (32 bytes) of one row's content."""
    return hashlib.sha256(LEAF + content).digest()


def root(leaves: Iterable[bytes]) -> str:
    """The root (64 hex digits) over `leaves` in the order of their bytes: which row came first does not matter."""
    level = sorted(leaves)
    if not level:
        return hashlib.sha256(b"").hexdigest()
    while len(level) > 1:
        pairs = [hashlib.sha256(NODE + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]  # the last of an odd number goes up as it is
    return level[0].hex()
