"""One connection to a runtime: asks and their answers, matched by call number."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
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


class Connection(asyncio.Protocol):
    """`closed` completes, with the reason, when the other end is gone; all open asks fail then."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._decoder: FrameDecoder[Answer] = FrameDecoder(Answer)
        self._calls = itertools.count(1)
        self._open: dict[int, asyncio.Future[Answer]] = {}
        self._transport: asyncio.Transport | None = None
        self._why = "it closed the connection"

    @classmethod
    async def open(cls, socket: Path) -> Connection:
        """Connected. Raises OSError where nobody listens."""
        _, connection = await asyncio.get_running_loop().create_unix_connection(cls, str(socket))
        return connection

    def ask(self, make: Callable[[int], Ask]) -> asyncio.Future[Answer]:
        """Send the ask that `make` builds from its call number. The future raises ConnectionLostError."""
        call = next(self._calls)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        answer.add_done_callback(seen)
        if self.closed.done() or self._transport is None:
            answer.set_exception(ConnectionLostError(self._why))
            return answer
        self._open[call] = answer
        self._transport.write(encode(make(call)))
        return answer

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
                if asked is not None and not asked.done():
                    asked.set_result(answer)
        except BrokenFrameError as error:
            self._why = str(error)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        self._why = str(exc) if exc else self._why
        for asked in self._open.values():
            if not asked.done():
                asked.set_exception(ConnectionLostError(self._why))
        self._open.clear()
        if not self.closed.done():
            self.closed.set_result(self._why)
