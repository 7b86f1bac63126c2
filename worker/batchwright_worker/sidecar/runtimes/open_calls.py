"""Open calls of one connection to a runtime: who waits for each response, and since when the runtime works on it. Pure.

A runtime works on its requests in their order, so the clock of one that was sent ahead begins when the one before it
has ended. Requests that do not wait for others (loads that overlap batches, batches of a layerwise runtime) have clocks
of their own.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

WARNING_SHARE: Final = 0.5
"""After this share of its limit a call is overdue: it is said, and nothing is done yet."""


@dataclass(slots=True)
class OpenCall:
    """`on_response` takes the response to the request, or a ConnectionLostError, once. `kind` ("batch", "load", ..),
    `model` and `rows` (0: none) are for messages; `began` is infinite while the call waits for others."""

    on_response: Callable[[Any], None]
    kind: str
    model: str = ""
    rows: int = 0
    limit_s: float = math.inf
    in_order: bool = True
    began: float = math.inf
    is_overdue: bool = False

    @property
    def what(self) -> str:
        """In words."""
        of = f" of {self.rows} rows" if self.rows else ""
        return f"the {self.kind}{of} of model {self.model}" if self.model else f"the {self.kind}"

    @property
    def due_at(self) -> float:
        """When something is to be said or done about it."""
        return self.began + (self.limit_s if self.is_overdue else self.limit_s * WARNING_SHARE)


@dataclass(slots=True)
class OpenCalls:
    """By call number, in the order of their requests."""

    calls: dict[int, OpenCall] = field(default_factory=dict)
    _in_order: deque[int] = field(default_factory=deque)

    def add(self, number: int, call: OpenCall, now: float) -> None:
        """The request is sent; it begins at once unless it waits behind others."""
        self.calls[number] = call
        if not call.in_order or not self._in_order:
            call.began = now
        if call.in_order:
            self._in_order.append(number)

    def pop(self, number: int, now: float) -> OpenCall | None:
        """The response is there; None if nobody knows the call. The one behind it begins now."""
        call = self.calls.pop(number, None)
        if call is not None and call.in_order:
            if self._in_order[0] != number:
                self._in_order.remove(number)
                return call
            self._in_order.popleft()
            if self._in_order:
                self.calls[self._in_order[0]].began = now
        return call

    @property
    def first_due_at(self) -> float:
        """When something is to be said or done about the call that the runtime works on in its order; infinite if there
        is none."""
        return self.calls[self._in_order[0]].due_at if self._in_order else math.inf

    def due_at(self) -> float:
        """The next time at which `due` has something; infinite for never."""
        return min((call.due_at for call in self.calls.values()), default=math.inf)

    def due(self, now: float) -> list[OpenCall]:
        """Calls that have come to be overdue, or beyond their limit (those are overdue already)."""
        return [call for call in self.calls.values() if call.due_at <= now]

    def clear(self) -> list[OpenCall]:
        """All of them, in order; none is open any more."""
        calls = list(self.calls.values())
        self.calls.clear()
        self._in_order.clear()
        return calls
