"""How the sidecar divides its memory: what requests may hold, and what batches on their way to a runtime take. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OWN_BYTES: Final = 112 << 20
"""The process itself with its helper, as measured with no request in it (docs/measurements.md)."""
REQUESTS_SHARE: Final = 0.45
SLOTS_SHARE: Final = 0.35
"""Of what is left beside the process; the rest is for outputs on their way back and for what allocators lose."""
MOST_SLOTS_BYTES: Final = 512 << 20
"""Two of the largest batches in flight, inputs and outputs."""
LEAST_BYTES: Final = 16 << 20
"""However small the container is, a few requests fit."""
MACHINE_SHARE: Final = 0.25
"""Of the machine's memory, where no limit is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShares:
    """`requests_bytes`: see `protocol/request_memory`; `slots_bytes`: shared memory of one runtime's batches."""

    requests_bytes: int
    slots_bytes: int


def memory_shares(limit_bytes: int, machine_bytes: int, runtimes: int, requests_bytes: int | None) -> MemoryShares:
    """From the container's limit (0: none); `requests_bytes` where it is set."""
    total = limit_bytes or int(MACHINE_SHARE * machine_bytes)
    left = max(0, total - OWN_BYTES)
    return MemoryShares(
        requests_bytes=requests_bytes or max(LEAST_BYTES, int(REQUESTS_SHARE * left)),
        slots_bytes=min(MOST_SLOTS_BYTES, max(LEAST_BYTES, int(SLOTS_SHARE * left) // max(1, runtimes))),
    )
