"""The connection to a runtime that stops responding: who is said to be to blame, and how soon."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from batchwright_worker.ipc.frames import FrameDecoder, encode
from batchwright_worker.ipc.messages import RuntimeRequest, Unload, Unloaded
from batchwright_worker.sidecar.runtimes.connection import ConnectionLostError, RuntimeConnection
from batchwright_worker.sidecar.runtimes.open_calls import OpenCall


@contextlib.asynccontextmanager
async def server(socket: Path, responds_to: int) -> AsyncIterator[None]:
    """Responds to so many requests, 50 ms after each, and to no more."""
    ended = asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder: FrameDecoder[RuntimeRequest] = FrameDecoder(RuntimeRequest)
        left = responds_to
        while data := await reader.read(1 << 16):
            for request in decoder.feed(data):
                if left:
                    left -= 1
                    await asyncio.sleep(0.05)
                    writer.write(encode(Unloaded(call=request.call, memory_used_bytes=0)))
        writer.close()
        ended.set()

    async with await asyncio.start_unix_server(converse, str(socket)):
        yield
        await ended.wait()


async def lost(connection: RuntimeConnection, limit_s: float, **fields: bool) -> tuple[float, object]:
    """When the call has ended, and with what."""
    ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    call = OpenCall(ended.set_result, "unload", "m", limit_s=limit_s, **fields)  # type: ignore[arg-type]
    connection.send(lambda number: Unload(call=number, model="m"), call)
    result = await ended
    return time.monotonic(), result


async def test_the_limit_of_a_call_sent_ahead_holds_from_when_the_one_before_it_has_ended(tmp_path: Path) -> None:
    async with server(tmp_path / "s", responds_to=1):
        connection = await RuntimeConnection.open(tmp_path / "s")
        began = time.monotonic()
        (_, first), (at, second), (_, third) = await asyncio.gather(
            lost(connection, 60.0), lost(connection, 0.2), lost(connection, 60.0)
        )
        assert isinstance(first, Unloaded)
        assert isinstance(second, ConnectionLostError)
        assert (second.overdue, second.begun) == (True, True)
        assert 0.2 < at - began < 60.0
        assert isinstance(third, ConnectionLostError)
        assert (third.overdue, third.begun) == (False, False)
        assert "longer than its limit of 0.2 s" in await connection.closed


async def test_a_call_that_waits_for_nobody_is_not_held_up_by_one_that_hangs(tmp_path: Path) -> None:
    async with server(tmp_path / "s", responds_to=0):
        connection = await RuntimeConnection.open(tmp_path / "s")
        (_, first), (_, second) = await asyncio.gather(lost(connection, 60.0), lost(connection, 0.2, in_order=False))
        assert isinstance(first, ConnectionLostError)
        assert isinstance(second, ConnectionLostError)
        assert (first.overdue, second.overdue) == (False, True)


@pytest.mark.parametrize("in_order", [True, False])
async def test_calls_that_were_lost_at_once_say_so(tmp_path: Path, in_order: bool) -> None:
    """In order only the first was worked on."""
    async with server(tmp_path / "s", responds_to=0):
        connection = await RuntimeConnection.open(tmp_path / "s")
        calls = [asyncio.ensure_future(lost(connection, 60.0, in_order=in_order)) for _ in range(2)]
        await asyncio.sleep(0)  # both are sent
        connection.close()
        found = [result for _, result in await asyncio.gather(*calls)]
        assert all(isinstance(each, ConnectionLostError) for each in found)
        assert [(each.begun, each.beside) for each in found if isinstance(each, ConnectionLostError)] == (
            [(True, False), (False, False)] if in_order else [(True, True), (True, True)]
        )


async def test_half_of_the_limit_is_said_and_taken_back(tmp_path: Path) -> None:
    async with server(tmp_path / "s", responds_to=1):
        connection = await RuntimeConnection.open(tmp_path / "s")
        said: list[str] = []
        connection.on_overdue = lambda _call, why: said.append(why)
        _, answer = await lost(connection, 0.09)
        assert isinstance(answer, Unloaded | ConnectionLostError)
        assert "has taken" in said[0]
        if isinstance(answer, Unloaded):
            assert said[1:] == [""]
        connection.close()
