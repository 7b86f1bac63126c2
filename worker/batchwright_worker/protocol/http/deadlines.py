"""Deadlines of connections, counted in the ticks of their server. Pure.

One timer per server moves all of them: a timer armed and cancelled per request would cost every request two heap
operations, and a deadline is met so rarely that a tenth of it does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Awaited(Enum):
    """What a connection waits for while its deadline runs. `HEADERS` and `BODY` are words of the response 408."""

    HEADERS = "headers"
    BODY = "body"
    NEXT_REQUEST = "next request"
    READING = "reading of responses"
    LINGERING = "end of a refused request"
    FLUSHING = "last response written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How many ticks each wait may take: for a request's headers, its body (or a response's way out), the next request,
    and the end of a refused one."""

    headers: int
    body: int
    idle: int
    linger: int


class Deadline:
    """The tick at which the wait of one connection ends, 0 while it does not wait; and what it waits for."""

    __slots__ = ("awaited", "tick")

    def __init__(self) -> None:
        self.tick = 0
        self.awaited: Awaited | None = None

    def start(self, tick: int, awaited: Awaited) -> None:
        """Wait until this tick, whatever the deadline was before."""
        self.tick, self.awaited = tick, awaited

    def stop(self) -> None:
        """Nothing is waited for."""
        self.tick, self.awaited = 0, None

    def awaits(self, awaited: Awaited) -> bool:
        """Does it run for this? Then it is not started again: a trickle of bytes does not move it."""
        return self.awaited is awaited

    def has_passed(self, tick: int) -> bool:
        """Is the wait over?"""
        return 0 < self.tick <= tick
