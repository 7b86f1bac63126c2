"""The cluster's clock: what time it is by the API server, whose times stand in every object.

By a machine's own clock that is an hour behind, a pod without a place would wait an hour longer before an autoscaler
may see it; by one that is ahead, a roll-out would have missed its deadline as it begins; one that is set back would let
whatever is to rest for a minute rest for an hour. So the time runs on by the monotonic clock, from what the API server
says in its answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from statistics import median
from typing import Final

logger = logging.getLogger(__name__)

TOLERATED_S: Final = 5.0
"""An answer says whole seconds, as of when it was begun; several API servers may differ by a second or two."""
IN_A_ROW: Final = 3
"""So many answers must say that the time is another one: one may have been on its way for long."""
EVERY_S: Final = 0.2
"""How often at most an answer is read for its time."""


class ClusterClock:
    """Unix seconds by the API server. `wall` is this machine's clock, by which it begins; both are in seconds."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset_s = wall() - monotonic()
        self._differences: list[float] = []
        self._next_at = float("-inf")

    def now(self) -> float:
        """Unix seconds. Never set back by this machine's clock."""
        return self._monotonic() + self._offset_s

    def heard(self, date: str | None) -> None:
        """The `Date` of an answer that has just come in; None where it has none."""
        if date is None or (at := self._monotonic()) < self._next_at:
            return
        self._next_at = at + EVERY_S
        try:
            said = parsedate_to_datetime(date).timestamp() + 0.5
        except ValueError:
            return  # a proxy's
        difference_s = said - self.now()
        if abs(difference_s) <= TOLERATED_S:
            self._differences.clear()
            return
        self._differences.append(difference_s)
        if len(self._differences) == IN_A_ROW:
            found = median(self._differences)
            self._offset_s += found
            self._differences.clear()
            logger.warning("the API server's clock says %+.0f s: taken for the time, instead of this machine's", found)
