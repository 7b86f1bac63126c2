"""Limits of what requests may take of this process; every front end keeps them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask this process to hold, and how long a client may take.

    Each size is checked against what is declared, before anything of that size is allocated. `header_seconds` count
    from the beginning of the connection or the first byte of a request, `body_seconds` from the end of its headers (and
    for a client that does not read, from its last response), `idle_seconds` from the last response; bytes that trickle
    do not move them.
    """

    body_bytes: int = 64 << 20
    json_bytes: int = 16 << 20
    header_bytes: int = 64 << 10
    rank: int = 16
    elements: int = 1 << 28
    tensors: int = 1024
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0
