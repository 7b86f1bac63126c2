"""One connection to a runtime: requests and their responses, matched by call number."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from batchwright_worker.ipc.frames import BrokenFrameError, FrameDecoder, encode
from batchwright_worker.ipc.messages import RuntimeRequest, RuntimeResponse


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Done callback: marks a failure that nobody waits for any more as retrieved, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


class ConnectionLostError(Exception):
    """The runtime process is gone."""


OnResponse = Callable[[RuntimeResponse | ConnectionLostError], None]
"""Takes the response to one request, or the loss of the connection, once."""


class RuntimeConnection(asyncio.Protocol):
    """`closed` completes, with the reason, when the other end is gone; all open requests fail then."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._decoder: FrameDecoder[RuntimeResponse] = FrameDecoder(RuntimeResponse)
        self._calls = itertools.count(1)
        self._open: dict[int, OnResponse] = {}
        self._transport: asyncio.Transport | None = None
        self._why = "it closed the connection"

    @classmethod
    async def open(cls, socket: Path) -> RuntimeConnection:
        """Connected. Raises OSError where nobody listens."""
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, str(socket))
        return connection

    def request(self, make: Callable[[int], RuntimeRequest]) -> asyncio.Future[RuntimeResponse]:
        """Send the request that `make` builds from its call number. Raises (the future does) ConnectionLostError."""
        response: asyncio.Future[RuntimeResponse] = self._loop.create_future()
        response.add_done_callback(_retrieve)
        self.send(make, partial(_settle, response))
        return response

    def send(self, make: Callable[[int], RuntimeRequest], on_response: OnResponse) -> None:
        """Send the request that `make` builds from its call number; `on_response` is called once, at once if the
        connection is lost already."""
        if self._transport is None or self.closed.done():
            on_response(ConnectionLostError(self._why))
            return
        call = next(self._calls)
        # Encoded before it is entered: a request that cannot be encoded raises here and nobody waits for its response.
        frame = encode(make(call))
        self._open[call] = on_response
        self._transport.write(frame)

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
                on_response = self._open.pop(response.call, None)
                if on_response is not None:
                    on_response(response)
        except BrokenFrameError as error:
            self._why = str(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self._why = str(exc) if exc else self._why
        open_requests, self._open = self._open, {}
        for on_response in open_requests.values():
            on_response(ConnectionLostError(self._why))
        if not self.closed.done():
            self.closed.set_result(self._why)


def _settle(future: asyncio.Future[RuntimeResponse], response: RuntimeResponse | ConnectionLostError) -> None:
    if future.done():
        return
    if isinstance(response, ConnectionLostError):
        future.set_exception(response)
    else:
        future.set_result(response)
