"""The callers' own deadlines: each is answered by a timer at its time, wherever its request stands: in a queue, behind
a load, in a batch that runs or hangs.

One timer for the earliest of all, and a heap behind it: a timer of the event loop per request would cost every request
that is answered in time, which nearly all are.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from batchwright_worker.engine import refusals
from batchwright_worker.engine.pending import DueTime, PendingRequest, PendingRequests

_TIMER_S: Final = 0.001
"""uvloop's timers count milliseconds: one that is asked for less would fire at once, and again, and again."""
_FEW: Final = 64
"""Deadlines of requests that are answered already are swept out when they are more than those that wait, and these."""


@dataclass(slots=True)
class DeadlineTimer:
    """One per engine."""

    requests: PendingRequests
    clock: Callable[[], float]
    _heap: list[DueTime] = field(default_factory=list)
    _timer: asyncio.TimerHandle | None = None
    _sweep_at: int = _FEW

    def watch(self, pending: PendingRequest, deadline: float) -> None:
        """Answer this request at its deadline unless it is answered before."""
        entry = pending.deadline = DueTime(at=deadline, pending=pending)
        if len(self._heap) >= self._sweep_at:
            self._heap = [one for one in self._heap if one.pending is not None]
            heapq.heapify(self._heap)
            self._sweep_at = max(_FEW, 2 * len(self._heap))
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._set(deadline)

    def close(self) -> None:
        """No more answers by time."""
        if self._timer is not None:
            self._timer.cancel()
        self._heap.clear()

    def _set(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(_TIMER_S, deadline - self.clock())
        self._timer = asyncio.get_running_loop().call_later(delay, self._fired)

    def _fired(self) -> None:
        self._timer = None
        now = self.clock()
        while self._heap and (self._heap[0].pending is None or self._heap[0].at <= now):
            pending = heapq.heappop(self._heap).pending
            if pending is not None:
                self.requests.fail(pending, refusals.expired(pending.request, now), "Deadline")
        if self._heap:
            self._set(self._heap[0].at)
