"""Identifiers of traces that several processes have to agree on without a word between them. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TraceIds:
    """Of a trace and of its root span."""

    trace: int
    span: int

    @property
    def traceparent(self) -> str:
        """As W3C writes it, sampled."""
        return f"00-{self.trace:032x}-{self.span:016x}-01"


def ids_of(uid: str) -> TraceIds:
    """Of what this object's uid is about: the same in every process, and in one that is started anew."""
    digest = hashlib.sha256(b"batchwright trace " + uid.encode()).digest()
    return TraceIds(int.from_bytes(digest[:16]) or 1, int.from_bytes(digest[16:24]) or 1)
