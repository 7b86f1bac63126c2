"""What all passes together may take of the processor, so that a storm of changes leaves it to others. Pure."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.1
"""Of a core, for as long as it lasts. 500 deployments of ten pods that are placed, bound and started at once are some
twenty-five thousand changes, and a pass for each of them is half a minute, while the API server waits for a core."""
BURST_S: Final = 1.0
"""What may be taken at once, after a while of little."""
REST_MAX_S: Final = 5.0
"""A key rests no longer than this: so late a status may be, at most, in a storm that goes on."""


class PassBudget:
    """Seconds of CPU that fill up with time, and are taken out by passes. `now` is of one monotonic clock."""

    def __init__(self, now: float) -> None:
        self._left_s, self._at = BURST_S, now

    def take(self, spent_s: float, now: float) -> float:
        """A pass took so much. For how many seconds its key is to rest: what changes meanwhile is one pass more, and
        not one for each change. A key that had no pass of late waits for nothing."""
        self._left_s = min(BURST_S, self._left_s + SHARE * (now - self._at)) - spent_s
        self._at = now
        if self._left_s >= 0:
            return 0.0
        self._left_s = max(self._left_s, -SHARE * REST_MAX_S)
        return -self._left_s / SHARE
