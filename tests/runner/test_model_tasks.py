"""Model tasks against real sidecars: fan-out, batches, bad rows, refusals, replicas that die or come late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from batchwright_worker.local.processes import LocalServing
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.progress import Published
from batchwright_worker.runner.steps.commit import commit
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.steps.shard import run_shard, shard_step
from e2e.cluster.machine.ports import free_port
from tests.runner.bench import Bench, cpu, model
from tests.runner.serving_rig import (
    REPLICAS,
    Names,
    deployment,
    kill_replica,
    replica,
    rows_served,
    state_of,
)

pytestmark = pytest.mark.slow

MakeBench = Callable[..., Bench]
FAN_OUT = (
    cpu("rows", "sample_functions:rows"),
    model("m", "emu", "m", "rows"),
    cpu("best", "sample_functions:best", "m"),
)


def records(count: int) -> list[dict[str, int]]:
    """Items with 0 to 4 rows each."""
    return [{"v": value, "n": value % 5} for value in range(count)]


def expected(count: int) -> list[list[int]]:
    return [[(value + i) % 8 for i in range(value % 5)] for value in range(count)]


async def test_rows_fan_out_and_in_again_in_batches(bench: MakeBench) -> None:
    async with replica(deployment(batching={"initialSize": 8})) as here:
        job = bench(*FAN_OUT, endpoints={"emu": f"{here.host}:{here.http}"})
        job.write_records(records(150))
        done = await job.run_all()
    assert [record["best"] for record in job.records()] == expected(150)
    task = {task.name: task for task in done.tasks}["m"]
    assert (task.succeeded, task.rows) == (150, sum(len(rows) for rows in expected(150)))
    assert task.batches < task.rows
    assert task.mean_batch_size > 1.5


@contextlib.asynccontextmanager
async def late_at_first(here: LocalServing, times: int) -> AsyncIterator[str]:
    """Its address behind a front that answers so many requests for inference as if they had not come in time."""
    left = times

    async def front(request: web.Request) -> web.Response:
        nonlocal left
        body = await request.read()
        if request.path.endswith("/infer") and left:
            left -= 1
            return web.json_response({"error": "the headers did not arrive within 10 s"}, status=408)
        async with session.request(request.method, here.url + request.path, data=body, headers=request.headers) as told:
            return web.Response(status=told.status, body=await told.read(), headers=told.headers)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", front)
    runner = web.AppRunner(application)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port := free_port())
            await site.start()
            yield f"127.0.0.1:{port}"
        finally:
            await runner.cleanup()


async def test_a_request_that_came_too_late_is_no_fault_of_its_rows(bench: MakeBench) -> None:
    """Where a machine is so busy that this process does not get its turn for ten seconds."""
    async with replica(deployment()) as here, late_at_first(here, 2) as endpoint:
        job = bench(*FAN_OUT, endpoints={"emu": endpoint})
        job.write_records(records(10))
        await job.run_all()
    assert [record["best"] for record in job.records()] == expected(10)


async def test_a_row_that_does_not_fit_the_model_is_its_items_error(bench: MakeBench) -> None:
    tasks = (cpu("row", "sample_functions:one_row", dtype="float64"), model("m", "emu", "m", "row"))
    async with replica(deployment()) as here:
        job = bench(*tasks, endpoints={"emu": f"{here.host}:{here.http}"})
        job.write_records(records(2))
        await job.run_all()
    for record in job.records():
        assert record["error"]["task"] == "m"
        assert "input 'x': wanted FP32, given FP64; convert with .astype(float32)" in record["error"]["message"]


@pytest.mark.parametrize(
    ("tasks", "reason", "words"),
    [
        (
            (cpu("row", "sample_functions:declared_wrong"), model("m", "emu", "m", "row")),
            "ShapeMismatch",
            "input 'x': wanted FP32, declared INT64",
        ),
        ((cpu("row", "sample_functions:one_row"), model("n", "emu", "n", "row")), "UnknownModel", "unknown model: 'n'"),
        ((cpu("row", "sample_functions:one_row"), model("n", "gone", "n", "row")), "UnknownDeployment", "'gone'"),
    ],
    ids=["declared type", "model", "deployment"],
)
async def test_what_cannot_work_fails_before_the_first_item(
    bench: MakeBench, tasks: tuple[dict[str, Any], ...], reason: str, words: str
) -> None:
    async with replica(deployment()) as here:
        job = bench(*tasks, endpoints={"emu": f"{here.host}:{here.http}"})
        job.write_records(records(2))
        with pytest.raises(StepFailed) as caught:
            await job.run_all()
    assert (caught.value.reason, caught.value.permanent) == (reason, True)
    assert words in str(caught.value)
    assert not job.parts()


async def test_refused_rows_are_sent_again_until_they_are_answered(bench: MakeBench) -> None:
    tight = deployment(targets={"latencyMilliseconds": 8}, batching={"windowMilliseconds": 100, "maxSize": 4})
    async with replica(tight) as here:
        job = bench(*FAN_OUT, endpoints={"emu": f"{here.host}:{here.http}"})
        job.write_records(records(120))
        done = await job.run_all()
        refused = (await state_of(here)).models[0].refused_total
    assert refused > 0
    assert done.manifest.failed == 0
    assert [record["best"] for record in job.records()] == expected(120)


async def test_a_replica_that_dies_in_the_middle_changes_nothing(bench: MakeBench, names: Names) -> None:
    port = free_port("0.0.0.0")
    names.addresses = ["127.0.0.1", "127.0.0.2"]
    async with (
        replica(deployment(), host="127.0.0.1", port=port),
        replica(deployment(), host="127.0.0.2", port=port) as doomed,
    ):
        job = bench(*FAN_OUT, endpoints={"emu": f"{REPLICAS}:{port}"})
        job.write_records(records(900))
        running = asyncio.create_task(job.run_all())
        assert await rows_served(doomed)
        kill_replica(doomed)
        done = await running
    assert done.manifest.failed == 0
    assert [record["best"] for record in job.records()] == expected(900)


async def test_a_deployment_that_is_not_there_is_waited_for_and_named(bench: MakeBench, names: Names) -> None:
    port = free_port("0.0.0.0")
    job = bench(*FAN_OUT, endpoints={"emu": f"{REPLICAS}:{port}"}, shard_size=1000)
    job.write_records(records(50))
    make_plan(job.job())
    told: asyncio.Queue[Published] = asyncio.Queue()
    running = asyncio.create_task(run_shard(shard_step(job.job(), 0), lambda published: _Told(told, published)))
    waiting = await (await told.get()).after(0, 20.0)
    assert waiting.waiting_for == ["emu"]
    assert not waiting.done
    async with replica(deployment(), host="127.0.0.2", port=port):
        names.addresses = ["127.0.0.2"]
        state = await running
    assert (state.done, state.items_succeeded, state.waiting_for) == (True, 50, [])
    assert commit(job.job()).manifest.succeeded == 50


class _Told:
    """Keeps what is published."""

    def __init__(self, told: asyncio.Queue[Published], published: Published) -> None:
        self._told, self._published = told, published

    async def __aenter__(self) -> None:
        self._told.put_nowait(self._published)

    async def __aexit__(self, *_: object) -> None:
        return None
