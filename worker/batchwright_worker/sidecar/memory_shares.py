"""How the sidecar divides its memory: what requests may hold, and what batches on their way to a runtime take. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OWN_BYTES: Final = 112 << 20
"""The process itself with its helper, as measured with no request in it (docs/measurements.md)."""
REQUESTS_SHARE: Final = 0.4
SLOTS_SHARE: Final = 0.25
DECODING_SHARE: Final = 0.2
"""Of what is left beside the process; the rest is for outputs on their way back and for what allocators lose."""
MOST_DECODING_BYTES: Final = 256 << 20
JSON_EXPANDS: Final = 8
"""Bytes that a byte of JSON takes while it is decoded: numbers are objects in between."""
MOST_SLOTS_BYTES: Final = 512 << 20
"""Two of the largest batches in flight, inputs and outputs."""
LEAST_BYTES: Final = 16 << 20
"""However small the container is, a few requests fit."""
MACHINE_SHARE: Final = 0.25
"""Of the machine's memory, where no limit is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShares:
    """`requests_bytes`: see `protocol/request_memory`; `slots_bytes`: shared memory of one runtime's batches;
    `decoding_bytes`: see `protocol/large_bodies`."""

    requests_bytes: int
    slots_bytes: int
    decoding_bytes: int

    @property
    def json_bytes(self) -> int:
        """The largest JSON part that can be decoded."""
        return self.decoding_bytes // JSON_EXPANDS


def memory_shares(limit_bytes: int, machine_bytes: int, runtimes: int, requests_bytes: int | None) -> MemoryShares:
    """From the container's limit (0: none); `requests_bytes` where it is set."""
    total = limit_bytes or int(MACHINE_SHARE * machine_bytes)
    left = max(0, total - OWN_BYTES)
    return MemoryShares(
        requests_bytes=requests_bytes or max(LEAST_BYTES, int(REQUESTS_SHARE * left)),
        decoding_bytes=min(MOST_DECODING_BYTES, max(LEAST_BYTES, int(DECODING_SHARE * left))),
        slots_bytes=min(MOST_SLOTS_BYTES, max(LEAST_BYTES, int(SLOTS_SHARE * left) // max(1, runtimes))),
    )
