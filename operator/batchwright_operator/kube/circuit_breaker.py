"""One circuit breaker for all calls of a kind: when the API server is away, one probe at a time goes out.

Closed: calls go through. Open (several failures in a row): calls fail at once, without a connection, except one
per delay; the delay doubles up to some seconds. Whoever has work to do waits in `ready`, which lets one waiter
through as the probe; the first success lets everybody through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from batchwright_operator.errors import Unavailable

THRESHOLD = 5
FIRST_DELAY_S = 0.1
LAST_DELAY_S = 5.0
RBAC_GRACE_S = 30.0
"""This long after an outage a 403 may mean that the server has not synced its RBAC yet."""


class CircuitBreaker:
    """State of one kind of call (reads, writes)."""

    def __init__(self, clock: Callable[[], float], rng: Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or Random()  # noqa: S311 - jitter
        self._failures = 0
        self._delay_s = 0.0
        self._next_probe = 0.0
        self._permits = 0
        self._last_outage = clock()
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Calls fail at once."""
        return self._failures >= THRESHOLD

    def check(self) -> None:
        """Before a call. Raises Unavailable while the breaker is open and this call is not the probe."""
        if not self.is_open:
            return
        if self._permits <= 0 and self._clock() < self._next_probe:
            raise Unavailable("the API server does not answer at present; the next try is due soon")
        self._permits = 0
        self._next_probe = self._clock() + self._delay_s

    def succeeded(self) -> None:
        """A call was answered."""
        was_open = self.is_open
        self._failures = 0
        self._delay_s = 0.0
        if was_open:
            self._changed.set()

    def nudge(self) -> None:
        """Something else shows that the server is there: the next probe is due."""
        if self.is_open:
            self._next_probe = self._clock()
            self._changed.set()

    def failed(self, retry_after_s: float | None = None) -> None:
        """A call was not answered, or the server said that it cannot serve now."""
        self._last_outage = self._clock()
        self._count(retry_after_s or 0.0)

    def forbidden(self) -> None:
        """A call was answered 403: right after an outage that counts as a failure, else as an answer."""
        if self._failures > 0 and self._clock() - self._last_outage < RBAC_GRACE_S:
            self._count(0.0)
        else:
            self.succeeded()

    def _count(self, asked_s: float) -> None:
        self._failures += 1
        if self.is_open:
            grown = min(LAST_DELAY_S, max(FIRST_DELAY_S, self._delay_s * 2))
            self._delay_s = max(grown, min(asked_s, 2 * LAST_DELAY_S))
            self._next_probe = self._clock() + self._delay_s * (0.5 + self._rng.random() / 2)

    async def ready(self) -> None:
        """Returns when calls go through, or when this caller may try as the probe."""
        while self.is_open:
            now = self._clock()
            if now >= self._next_probe:
                self._permits = 1
                self._next_probe = now + max(self._delay_s, FIRST_DELAY_S)
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(self._next_probe - now):
                    await self._changed.wait()
            except TimeoutError:
                continue
