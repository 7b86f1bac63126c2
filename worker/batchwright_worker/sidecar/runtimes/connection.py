"""One connection to a runtime: asks and their answers, matched by call number."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from batchwright_worker.ipc.frames import BrokenFrameError, FrameDecoder, encode
from batchwright_worker.ipc.messages import Answer, Ask


def seen(future: asyncio.Future[Any]) -> None:
    """Done callback: the failure of something that nobody waits for any more is no news."""
    if not future.cancelled():
        future.exception()


class ConnectionLostError(Exception):
    """The runtime process is gone."""


Answered = Callable[[Answer | ConnectionLostError], None]
"""What becomes of an ask."""


class RuntimeConnection(asyncio.Protocol):
    """`closed` completes, with the reason, when the other end is gone; all open asks fail then."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._decoder: FrameDecoder[Answer] = FrameDecoder(Answer)
        self._calls = itertools.count(1)
        self._open: dict[int, Answered] = {}
        self._transport: asyncio.Transport | None = None
        self._why = "it closed the connection"

    @classmethod
    async def open(cls, socket: Path) -> RuntimeConnection:
        """Connected. Raises OSError where nobody listens."""
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, str(socket))
        return connection

    def ask(self, make: Callable[[int], Ask]) -> asyncio.Future[Answer]:
        """Send the ask that `make` builds from its call number. The future raises ConnectionLostError."""
        answer: asyncio.Future[Answer] = self._loop.create_future()
        answer.add_done_callback(seen)
        self.call(make, partial(_settle, answer))
        return answer

    def call(self, make: Callable[[int], Ask], answered: Answered) -> None:
        """Send the ask that `make` builds from its call number; `answered` is called once, at once if the connection
        is lost already."""
        if self._transport is None or self.closed.done():
            answered(ConnectionLostError(self._why))
            return
        call = next(self._calls)
        ask = encode(make(call))
        self._open[call] = answered
        self._transport.write(ask)

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
            for answer in self._decoder.feed(data):
                asked = self._open.pop(answer.call, None)
                if asked is not None:
                    asked(answer)
        except BrokenFrameError as error:
            self._why = str(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self._why = str(exc) if exc else self._why
        open_asks, self._open = self._open, {}
        for asked in open_asks.values():
            asked(ConnectionLostError(self._why))
        if not self.closed.done():
            self.closed.set_result(self._why)


def _settle(future: asyncio.Future[Answer], answer: Answer | ConnectionLostError) -> None:
    if future.done():
        return
    if isinstance(answer, ConnectionLostError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
