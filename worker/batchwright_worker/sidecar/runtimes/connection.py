"""One connection to a runtime: requests and their responses, matched by call number; calls that take too long."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from batchwright_worker.ipc.frames import BrokenFrameError, FrameDecoder, encode
from batchwright_worker.ipc.messages import RuntimeRequest, RuntimeResponse
from batchwright_worker.sidecar.runtimes.open_calls import OpenCall, OpenCalls

_TIMER_S: Final = 0.001
"""uvloop's timers count milliseconds: one that is asked for less would fire at once, and again, and again."""


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Done callback: marks a failure that nobody waits for any more as retrieved, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


class ConnectionLostError(Exception):
    """The runtime process is gone. `begun`: may it have worked on this call? `overdue`: this call took too long, which
    is why the connection was given up. `beside`: may it have worked on others as well?"""

    def __init__(self, why: str, *, begun: bool = True, overdue: bool = False, beside: bool = False) -> None:
        super().__init__(why)
        self.begun = begun
        self.overdue = overdue
        self.beside = beside


OnOverdue = Callable[[OpenCall, str], None]
"""Takes a call that has taken half of its limit with a sentence that says so, or with none, if it has ended after
all."""


class RuntimeConnection(asyncio.Protocol):
    """`closed` completes, with the reason, when the other end is gone; all open requests fail then. `on_limit` takes
    the sentence about a call beyond its limit, just before the connection is given up for it."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self.on_overdue: OnOverdue = lambda _call, _why: None
        self.on_limit: Callable[[OpenCall, str], None] = lambda _call, _why: None
        self._loop = loop
        self._decoder: FrameDecoder[RuntimeResponse] = FrameDecoder(RuntimeResponse)
        self._numbers = itertools.count(1)
        self._open = OpenCalls()
        self._transport: asyncio.Transport | None = None
        self._why = "it closed the connection"
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    @classmethod
    async def open(cls, socket: Path) -> RuntimeConnection:
        """Connected. Raises OSError where nobody listens."""
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, str(socket))
        return connection

    def request(
        self,
        make: Callable[[int], RuntimeRequest],
        kind: str,
        model: str = "",
        *,
        limit_s: float = math.inf,
        in_order: bool = True,
    ) -> asyncio.Future[RuntimeResponse]:
        """Send the request that `make` builds from its call number; the rest as `OpenCall` has it. Raises (the future
        does) ConnectionLostError."""
        response: asyncio.Future[RuntimeResponse] = self._loop.create_future()
        response.add_done_callback(_retrieve)
        settle = partial(_settle, response)
        self.send(make, OpenCall(settle, kind=kind, model=model, limit_s=limit_s, in_order=in_order))
        return response

    def send(self, make: Callable[[int], RuntimeRequest], call: OpenCall) -> None:
        """Send the request that `make` builds from its call number; the call is responded to once, at once if the
        connection is lost already. Beyond the call's limit the connection is given up."""
        if self._transport is None or self.closed.done():
            call.on_response(ConnectionLostError(self._why, begun=False))
            return
        number = next(self._numbers)
        # Encoded before it is entered: a request that cannot be encoded raises here and nobody waits for its response.
        frame = encode(make(number))
        self._open.add(number, call, self._loop.time())
        self._transport.write(frame)
        # Under steady traffic the timer stands for an earlier call already and is not set anew.
        if call.due_at < self._timer_at:
            self._set_timer(call.due_at)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        try:
            for response in self._decoder.feed(data):
                call = self._open.pop(response.call, self._loop.time())
                if call is not None:
                    if call.is_overdue:
                        self.on_overdue(call, "")
                    # The one behind it has begun, and may have a shorter limit.
                    if self._open.first_due_at < self._timer_at:
                        self._set_timer(self._open.first_due_at)
                    call.on_response(response)
        except BrokenFrameError as error:
            self._why = str(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self._lost(str(exc) if exc else self._why, None)

    def _lost(self, why: str, overdue: OpenCall | None) -> None:
        self._why = why
        if self._timer is not None:
            self._timer.cancel()
        calls = self._open.clear()
        # A batch behind the first may be on the device already. If it is what killed the process, it will be the first
        # when it is tried again.
        begun = [call for call in calls if (call is overdue if overdue is not None else call.began < math.inf)]
        for call in calls:
            call.on_response(
                ConnectionLostError(why, begun=call in begun, overdue=call is overdue, beside=len(begun) > 1)
            )
        if not self.closed.done():
            self.closed.set_result(why)

    # --- calls that take too long ---

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at < math.inf:
            self._timer = self._loop.call_later(max(_TIMER_S, at - self._loop.time()), self._fired)

    def _fired(self) -> None:
        self._timer, now = None, self._loop.time()
        for call in self._open.due(now):
            took = f"{call.what} has taken {now - call.began:.1f} s"
            if call.is_overdue:
                self._give_up(call, f"{took}, longer than its limit of {call.limit_s:g} s")
                return
            call.is_overdue = True
            self.on_overdue(call, f"{took}; its runtime will be replaced after {call.limit_s:g} s")
        self._set_timer(self._open.due_at())

    def _give_up(self, call: OpenCall, why: str) -> None:
        self.on_limit(call, why)
        if self._transport is not None:
            self._transport.abort()
        # At once, not when the event loop closes the transport: nothing of this process counts any more.
        self._lost(why, call)


def _settle(future: asyncio.Future[RuntimeResponse], response: RuntimeResponse | ConnectionLostError) -> None:
    if future.done():
        return
    if isinstance(response, ConnectionLostError):
        future.set_exception(response)
    else:
        future.set_result(response)
