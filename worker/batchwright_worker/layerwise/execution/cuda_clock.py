"""Device events on the host's clock."""

from __future__ import annotations

from math import inf
from typing import Any, Final

__all__ = ["ANCHOR_S", "DRIFT", "EventClock"]

ANCHOR_S: Final = 10.0
"""How far an event may lie from the clock's anchor before the anchor moves."""
DRIFT: Final = 2e-4
"""Seconds per second by which the device's clock and the host's may differ (crystals: some 1e-5)."""


class EventClock:
    """Device events on the host's clock: one event whose host time is known, and the time since it.

    The time between two events is a 32-bit float of milliseconds: 2 microseconds are lost after 16 seconds. So the
    anchor moves on to an event of its own every so often. The device's clock runs a little faster or slower than the
    host's: what the host saw last of each event bounds how far off it can be, and the anchor follows that.
    """

    def __init__(self, event: Any, host_s: float) -> None:
        self._anchor = (event, host_s)
        self._ahead_s = inf
        """The least time by which the host was later than the device's clock says, since the anchor moved."""

    def at(self, event: Any) -> float:
        """Host time of an event that has happened."""
        anchor, host_s = self._anchor
        return float(host_s + float(anchor.elapsed_time(event)) / 1e3)

    def ended(self, event: Any, now_s: float) -> float:
        """Host time of an event whose end the host has just seen, at `now_s`."""
        found = self.at(event)
        since_s = found - self._anchor[1]
        self._ahead_s = min(self._ahead_s, now_s - found)
        if since_s > ANCHOR_S:
            # A host that sees every end late looks like a slow device: no clock is off by more than DRIFT.
            most = DRIFT * since_s
            self._anchor = (event, found + min(max(self._ahead_s, -most), most))
            self._ahead_s = inf
        return found
