"""What one model or one client does costs no other its answers."""

from __future__ import annotations

import asyncio
import socket
import statistics
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.reliability.callers import HOST, Caller, ask_all, request_of, traffic
from tests.reliability.fates import Fate, fated_model, journal, manifest, row_of
from tests.reliability.pod import Pod, pod
from tests.reliability.usage import connected, usage

pytestmark = pytest.mark.slow


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Pod]:
    models = [fated_model(tmp_path, "m", fixed_ms=2.0), fated_model(tmp_path, "other", fixed_ms=2.0)]
    async with pod(manifest("neighbours", models)) as here:
        await here.start_runtime()
        await here.start_sidecar("--header-seconds", "2", "--body-seconds", "2")
        await here.ready()
        yield here


async def test_a_model_whose_load_kills_the_runtime_is_given_up_and_its_neighbour_served(tmp_path: Path) -> None:
    models = [fated_model(tmp_path, "deadly", kills_on_load=True), fated_model(tmp_path, "m")]
    async with pod(manifest("deadly", models)) as here:
        await here.start_runtime()
        await here.start_sidecar()
        state = await here.state_when(lambda state: [each["state"] for each in state["models"]] == ["Failed", "Ready"])
        assert "died 5 times in a row while it was loaded" in state["models"][0]["message"]
        async with Caller(here.http) as caller:
            assert (await caller.ask([row_of(1)])).is_right([row_of(1)])
            refused = await caller.ask([row_of(2)], "deadly")
        assert refused.status == 503
        assert "is not served now" in refused.error


async def test_a_model_that_raises_on_every_row_leaves_its_neighbour_alone(here: Pod) -> None:
    bad = [(row_of(number, Fate.RAISES),) for number in range(1, 41)]
    async with traffic(here.http, callers=8, model="other") as load:
        await load.more(100)
        answers = await ask_all(here.http, bad)
        await load.more(100)
    assert {answer.status for answer in answers} == {500}
    assert (load.wrongs, load.lost) == ({}, set())


async def test_batches_that_do_not_fit_are_split_and_the_cap_is_learned(here: Pod, tmp_path: Path) -> None:
    """Rows that run out of memory in batches of more than four are answered all the same, soon in batches of four."""
    greedy = [(row_of(number, Fate.GREEDY),) for number in range(1, 65)]
    answers = await ask_all(here.http, greedy)
    assert [answer for answer, rows in zip(answers, greedy, strict=True) if not answer.is_right(rows)] == []
    before = len(journal(tmp_path, "m").entries())
    await ask_all(here.http, greedy)
    later = journal(tmp_path, "m").entries()[before:]
    assert max(len(entry.numbers) for entry in later) <= 4, "none that does not fit is tried again"


async def test_clients_that_stall_or_never_read_cost_the_others_nothing(here: Pod) -> None:
    """Sixty of them: half a header, half a body, and thousands of requests whose answers nobody takes."""
    assert here.sidecar is not None
    async with traffic(here.http, callers=8) as load:
        await load.more(300)
        calm = statistics.median(load.seconds)
        before = usage(here.sidecar.pid)
        with ExitStack() as stack:
            stalled = [stack.enter_context(socket.create_connection((HOST, here.http))) for _ in range(60)]
            for number, client in enumerate(stalled):
                client.setblocking(False)
                stall(client, number)
            load.seconds.clear()
            await load.more(600)
            assert statistics.median(load.seconds) < 5 * calm + 0.01
            during = usage(here.sidecar.pid)
            assert during.private_bytes - before.private_bytes < 64 << 20
            await closed(here.sidecar.pid, most=8 + 2)
    assert (load.wrongs, load.lost) == ({}, set())


def stall(client: socket.socket, number: int) -> None:
    """One of three ways to be a burden."""
    whole = request_of([row_of(number + 1)], "m")
    if number % 12 < 6:
        client.send(whole[:40])
    elif number % 12 < 11:
        client.send(whole[:-20])
    else:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            while client.send(whole * 100):
                pass
        except BlockingIOError:
            return


async def closed(pid: int, most: int) -> None:
    """The sidecar has hung up on all but `most`."""
    for _ in range(600):
        if connected(pid) <= most:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{connected(pid)} connections are still open")
