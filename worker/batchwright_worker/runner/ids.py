"""Item ids: compared by 63-bit hashes, so that the plan of many millions of items fits a small pod."""

from __future__ import annotations

import hashlib


def id_hash(name: str) -> int:
    """A hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1
