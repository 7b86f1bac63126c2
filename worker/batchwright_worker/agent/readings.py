"""What the agent reads, and from where: one source per kind of processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One device of one kind at one time. Shares in [0, 1]; None: the hardware does not tell (that is not zero)."""

    kind: str
    device: str
    utilization: float | None
    memory_utilization: float | None
    taken_at: float
    """Unix seconds."""
    memory_bytes: int = 0
    product: str = ""
    driver: str = ""


class ReadingSource(Protocol):
    """Reads the devices of one kind of processor. A source whose hardware is absent reads nothing."""

    def read(self) -> Sequence[DeviceReading]:
        """All devices now; never raises for a device that fails (it is left out)."""


def share(part: float, whole: float) -> float:
    """part / whole in [0, 1]; 0 of nothing is 0."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
