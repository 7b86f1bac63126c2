"""SIGTERM under load: what was taken is finished, what comes later is refused, what cannot be finished is told so."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.reliability.callers import Answer, Caller
from tests.reliability.fates import Row, fated_model, journal, manifest, row_of
from tests.reliability.grpc_callers import GrpcCaller
from tests.reliability.pod import Pod, pod

pytestmark = pytest.mark.slow
WAITING = 60


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Pod]:
    """100 ms a batch of at most two: sixty callers wait for three seconds."""
    async with pod(manifest("stopping", [fated_model(tmp_path, "m", fixed_ms=100.0, maxSize=2)])) as here:
        await here.start_runtime()
        yield here


async def start(here: Pod, *options: str) -> None:
    """A ready sidecar."""
    await here.start_sidecar(*options)
    await here.ready()


async def asked(here: Pod, tmp_path: Path, channel: GrpcCaller | None) -> list[asyncio.Task[Answer]]:
    """One row of each of many callers, over HTTP where there is no gRPC channel; the first batches run."""

    async def ask(number: int) -> Answer:
        if channel is not None:
            return await channel.ask([row_of(number)])
        async with Caller(here.http) as caller:
            return await caller.ask([row_of(number)])

    tasks = [asyncio.create_task(ask(number)) for number in range(1, WAITING + 1)]
    book = journal(tmp_path, "m")
    while len(book.begun()) < 4:  # noqa: ASYNC110 - the journal is a file of another process
        await asyncio.sleep(0.01)
    return tasks


def row(number: int) -> Sequence[Row]:
    """Of caller `number`, counted from 0."""
    return [row_of(number + 1)]


@pytest.mark.parametrize("front", ["http", "grpc"])
async def test_what_was_taken_is_finished(here: Pod, tmp_path: Path, front: str) -> None:
    await start(here)
    async with Caller(here.http) as late, GrpcCaller(here.grpc) as channel:
        await late.ask([row_of(1000)])
        tasks = await asked(here, tmp_path, None if front == "http" else channel)
        await wait_taken(here, 1 + WAITING)
        stopped = asyncio.create_task(here.end(here.sidecar))
        await here.state_when(lambda state: state["message"] == "stopping")
        refused = [await late.ask([row_of(2000)]), await channel.ask([row_of(2001)])]
        answers = await asyncio.gather(*tasks)
        assert await stopped == 0
    assert [answer for number, answer in enumerate(answers) if not answer.is_right(row(number))] == []
    assert [(answer.status, "stopping" in answer.error) for answer in refused] == [(503, True)] * 2


@pytest.mark.parametrize("front", ["http", "grpc"])
async def test_what_cannot_be_finished_in_time_is_told_so(here: Pod, tmp_path: Path, front: str) -> None:
    await start(here, "--drain-seconds", "0.4")
    async with GrpcCaller(here.grpc) as channel:
        tasks = await asked(here, tmp_path, None if front == "http" else channel)
        await wait_taken(here, WAITING)
        began = time.monotonic()
        assert await here.end(here.sidecar) == 0
        answers = await asyncio.gather(*tasks)
    assert time.monotonic() - began < 20
    right = sum(answer.is_right(row(number)) for number, answer in enumerate(answers))
    told = sum(answer.status == 503 and "stopping" in answer.error for answer in answers)
    assert right + told == WAITING
    assert min(right, told) >= 4


async def test_a_runtime_finishes_its_batch_and_the_queue_lives_on(here: Pod, tmp_path: Path) -> None:
    """The runtime's container is stopped and started again under a sidecar that stays."""
    await start(here)
    tasks = await asked(here, tmp_path, None)
    runtime = here.runtime
    assert await here.end(here.supervisor, signal.SIGTERM) == 0
    assert journal(tmp_path, "m").cut_off(runtime) == set()
    await here.start_runtime()
    answers = await asyncio.gather(*tasks)
    assert [answer for number, answer in enumerate(answers) if not answer.is_right(row(number))] == []


async def wait_taken(here: Pod, count: int) -> None:
    """So many requests have come in: they wait, run or are answered."""
    counted = ("nv_inference_pending_request_count{", "nv_inference_request_success{")
    async with Caller(here.http) as caller:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            await caller.send(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
            lines = [line for line in (await caller.text()).splitlines() if line.startswith(counted)]
            if sum(float(line.rsplit(" ", 1)[1]) for line in lines) >= count:
                return
            await asyncio.sleep(0.01)
    raise AssertionError(f"never {count} callers: {lines}")
