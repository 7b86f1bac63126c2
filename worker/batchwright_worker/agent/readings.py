"""What the agent reads, and from where: one source per kind of processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

ENDED: Final = ""
"""In `DeviceReading.pods`: the pods that have ended since the reading before, together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodShare:
    """What one pod used of a device, as shares in [0, 1] of the whole of it."""

    utilization: float
    memory_utilization: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReading:
    """One device of one kind at one time. Shares in [0, 1]; None: the hardware does not tell (that is not zero)."""

    kind: str
    device: str
    utilization: float | None
    memory_utilization: float | None
    taken_at: float
    """Unix seconds."""
    pods: Mapping[str, PodShare] | None = None
    """uid -> share of each pod that uses enough to matter; None: the device does not tell which pod uses it."""
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
