"""Callers over HTTP: each a connection of its own, each answer checked against the reference."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.reliability.fates import Row, reference, row_of

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON body."""

    status: int
    body: Any

    @property
    def error(self) -> str:
        """What went wrong, in words."""
        return str(self.body.get("error", ""))

    def is_right(self, rows: Sequence[Row]) -> bool:
        """A result, and the one of these rows."""
        if self.status != 200:
            return False
        output = self.body["outputs"][0]
        wanted = [value for row in rows for value in reference(row)]
        return bool(output["shape"] == [len(rows), 4] and output["data"] == wanted)


def request_of(rows: Sequence[Row], model: str) -> bytes:
    """A whole POST."""
    data = [value for row in rows for value in row]
    tensor = {"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": data}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Caller:
    """One connection, opened when it is needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ask(self, rows: Sequence[Row], model: str = "m") -> Answer:
        """The answer. Raises ConnectionError where the connection is closed instead."""
        await self.send(request_of(rows, model))
        return await self.answer()

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """The next answer on this connection. Raises ConnectionError."""
        status, body = await self._next()
        return Answer(status, json.loads(body))

    async def text(self) -> str:
        """The next answer's body, whatever it is. Raises ConnectionError."""
        return (await self._next())[1].decode()

    async def _next(self) -> tuple[int, bytes]:
        assert self._reader is not None
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.split("content-length:")[1].split("\r\n")[0])
            body = await self._reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            await self.close()
            raise ConnectionResetError(f"closed after {len(error.partial)} bytes") from error
        except ConnectionError:
            await self.close()
            raise
        if "connection: close" in head:
            await self.close()
        return int(head.split()[1]), body

    def abort(self) -> None:
        """Leave without a word."""
        if self._writer is not None:
            self._writer.transport.abort()
            self._reader = self._writer = None

    async def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._reader = self._writer = None


@dataclass
class Traffic:
    """Callers that ask one good row after the other; `rights`, `wrongs` and `lost` say what came of each number."""

    rights: set[int] = field(default_factory=set)
    wrongs: dict[int, Answer] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    """The connection was closed instead of an answer."""
    seconds: list[float] = field(default_factory=list)
    asked: int = 0
    stopping: bool = False
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self, number: int, answer: Answer | None, seconds: float) -> None:
        """What a caller met."""
        if answer is None:
            self.lost.add(number)
        elif answer.is_right([row_of(number)]):
            self.rights.add(number)
            self.seconds.append(seconds)
        else:
            self.wrongs[number] = answer
        self._changed.set()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        """Wakes with every answer."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def more(self, answers: int) -> None:
        """Until so many more right answers have come."""
        goal = len(self.rights) + answers
        await self.until(lambda: len(self.rights) >= goal)


@contextlib.asynccontextmanager
async def traffic(port: int, callers: int, model: str = "m", first: int = 1) -> AsyncIterator[Traffic]:
    """`callers` closed loops, until the end of the block; each caller then still gets its last answer."""
    state, numbers = Traffic(), itertools.count(first)
    tasks = [asyncio.create_task(_loop(port, model, numbers, state)) for _ in range(callers)]
    try:
        yield state
    finally:
        state.stopping = True
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)


async def _loop(port: int, model: str, numbers: Iterator[int], state: Traffic) -> None:
    loop = asyncio.get_running_loop()
    async with Caller(port) as caller:
        while not state.stopping:
            number = next(numbers)
            state.asked += 1
            began = loop.time()
            try:
                answer = await caller.ask([row_of(number)], model)
            except ConnectionError:
                state.told(number, None, loop.time() - began)
                await asyncio.sleep(0.02)
            else:
                state.told(number, answer, loop.time() - began)


async def ask_all(port: int, requests: Iterable[Sequence[Row]], model: str = "m") -> list[Answer]:
    """All at once, each on a connection of its own."""

    async def one(rows: Sequence[Row]) -> Answer:
        async with Caller(port) as caller:
            return await caller.ask(rows, model)

    return await asyncio.gather(*(one(rows) for rows in requests))
