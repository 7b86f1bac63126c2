"""The circuit breaker that all calls of one kind share: while the API server is away, one probe at a time goes out.

Closed: calls go through. Open (several failures in a row): calls fail at once, without a connection, except one
probe per delay; the delay doubles up to some seconds. Callers with work to do wait in `ready`, which lets one of
them through as the probe; the first success closes the circuit for all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from batchwright_operator.errors import Unavailable

# Shared by all keys, because a back-off per key is not enough: with one per pod, 20 s without an API server made
# 55,000 failed connections. tests/reconcile/test_api_faults.py bounds the tries of an outage with these three.
THRESHOLD = 5
FIRST_DELAY_S = 0.1
LAST_DELAY_S = 5.0
RBAC_GRACE_S = 30.0
"""This long after an outage a 403 may mean that the API server has not synced its RBAC yet: it responds so after a
restart, to everybody."""


class CircuitBreaker:
    """The state of one kind of call (reads or writes). `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], rng: Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or Random()  # noqa: S311 - jitter
        self._failures = 0
        self._delay_s = 0.0
        self._next_probe = 0.0
        self._permits = 0
        self._why = ""
        self._last_outage = clock()
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """Whether calls fail at once."""
        return self._failures >= THRESHOLD

    def check(self) -> None:
        """Call it before a request. Raises Unavailable while the circuit is open and this request is not the probe."""
        if not self.is_open:
            return
        if self._permits <= 0 and self._clock() < self._next_probe:
            raise Unavailable(f"the API server does not serve at present, the next try is due soon: {self._why}")
        self._permits = 0
        self._next_probe = self._clock() + self._delay_s

    def succeeded(self) -> None:
        """The API server responded."""
        was_open = self.is_open
        self._failures = 0
        self._delay_s = 0.0
        if was_open:
            self._changed.set()

    def probe_now(self) -> None:
        """Makes the next probe due: a request outside this circuit has shown that the API server is there."""
        if self.is_open:
            self._next_probe = self._clock()
            self._changed.set()

    def failed(self, error: Exception, retry_after_s: float | None = None) -> None:
        """There was no response, or the API server responded that it cannot serve now (429, 5xx)."""
        self._last_outage = self._clock()
        self._count(error, retry_after_s or 0.0)

    def forbidden(self, error: Exception) -> None:
        """The API server responded 403: soon after an outage that counts as a failure, else as a success."""
        if self._failures > 0 and self._clock() - self._last_outage < RBAC_GRACE_S:
            self._count(error, 0.0)
        else:
            self.succeeded()

    def _count(self, error: Exception, asked_s: float) -> None:
        self._failures += 1
        self._why = str(error) or type(error).__name__
        if self.is_open:
            # A server that asks for more patience (Retry-After) gets it, but not so much that recovery goes unnoticed.
            grown = min(LAST_DELAY_S, max(FIRST_DELAY_S, self._delay_s * 2))
            self._delay_s = max(grown, min(asked_s, 2 * LAST_DELAY_S))
            self._next_probe = self._clock() + self._delay_s * (0.5 + self._rng.random() / 2)

    async def ready(self) -> None:
        """Returns when calls go through, or when this caller may try as the probe."""
        while self.is_open:
            now = self._clock()
            if now >= self._next_probe:
                # `check` of this caller's request uses the permit up. The next waiter's turn is moved on already here,
                # so that waiters that resume in the same turn of the event loop do not all probe.
                self._permits = 1
                self._next_probe = now + max(self._delay_s, FIRST_DELAY_S)
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(self._next_probe - now):
                    await self._changed.wait()
            except TimeoutError:
                continue
