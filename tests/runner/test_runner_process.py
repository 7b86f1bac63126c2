"""The runner as a process: its state by long-poll, its end by SIGKILL and SIGTERM, its termination message."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest

from batchwright_worker.api.messages import CommitResult, ItemFailure, PlanResult, RunnerState
from batchwright_worker.api.names import ENV_SHARD, EXIT_PERMANENT, STATE_PATH, TERMINATION_MESSAGE_MAX_BYTES
from batchwright_worker.runner.progress import fit
from batchwright_worker.runner.steps.plan import make_plan
from e2e.cluster.machine.ports import free_port
from tests.runner.bench import FUNCTIONS, Bench, cpu, model
from tests.runner.serving_rig import deployment, replica

MakeBench = Callable[..., Bench]
TOKEN = "known-to-the-operator"
TASKS = (
    cpu("row", "sample_functions:one_row"),
    model("m", "emu", "m", "row"),
    cpu("b", "sample_functions:best_one", "m"),
)


class Runner:
    """`batchwright-worker runner STEP` over a bench."""

    def __init__(self, job: Bench) -> None:
        self.folder = job.folder
        self.port = free_port("0.0.0.0")
        (self.folder / "job.json").write_bytes(msgspec.json.encode(job.config()))
        (self.folder / "token").write_text(TOKEN + "\n")
        self.log = self.folder / "termination.log"

    async def start(self, step: str, *options: str) -> asyncio.subprocess.Process:
        files = ("--job", str(self.folder / "job.json"), "--termination-log", str(self.log))
        command = (sys.executable, "-m", "batchwright_worker", "runner", step, *files, *options)
        path = os.pathsep.join((str(FUNCTIONS), os.environ.get("PYTHONPATH", "")))
        environment = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", ENV_SHARD: "0"}
        return await asyncio.create_subprocess_exec(*command, env=environment, stderr=asyncio.subprocess.PIPE)

    async def run(self) -> asyncio.subprocess.Process:
        return await self.start("run", "--control-port", str(self.port), "--token-file", str(self.folder / "token"))

    async def state(self, after: int, token: str = TOKEN) -> RunnerState:
        """Long-poll, as the operator does; waits until the port answers."""
        url = f"http://127.0.0.1:{self.port}{STATE_PATH}?after={after}&waitSeconds=20"
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
            while True:
                try:
                    async with session.get(url) as response:
                        response.raise_for_status()
                        return msgspec.json.decode(await response.read(), type=RunnerState)
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)

    async def state_with_items(self, items: int) -> RunnerState:
        state = await self.state(-1)
        while state.items_succeeded < items:
            state = await self.state(state.revision)
        return state


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_killed_runner_leaves_nothing_and_the_next_one_gives_the_same_bytes(
    bench: MakeBench, number: signal.Signals, tmp_path: Path
) -> None:
    let = tmp_path / "let"  # the last item waits for it: no run is over before it was looked at
    let.touch()
    tasks = (cpu("row", "sample_functions:row_when_there", path=str(let), number=599), *TASKS[1:])
    async with replica(deployment(batching={"maxSize": 2})) as here:
        job = bench(*tasks, shard_size=10_000, endpoints={"emu": f"{here.host}:{here.http}"})
        job.write_records([{"v": v} for v in range(600)])
        undisturbed = Bench(tmp_path / "undisturbed", tasks, shard_size=10_000, endpoints=job.endpoints)
        undisturbed.write_records([{"v": v} for v in range(600)])
        await undisturbed.run_all()
        let.unlink()
        make_plan(job.job())
        runner = Runner(job)
        first = await runner.run()
        await runner.state_with_items(1)
        first.send_signal(number)
        if number is signal.SIGKILL:
            let.touch()  # of its workers one is in that item still
        assert await first.wait() == (-9 if number is signal.SIGKILL else 143)
        assert not job.parts()
        let.unlink(missing_ok=True)
        second = await runner.run()
        state = await runner.state_with_items(1)
        assert 0 < state.items_succeeded < state.items_total == 600
        let.touch()
        assert await second.wait() == 0
    assert job.parts() == undisturbed.parts()
    told = msgspec.json.decode(runner.log.read_bytes(), type=RunnerState)
    assert (told.done, told.items_succeeded, told.shard) == (True, 600, 0)


async def test_the_state_is_told_to_bearers_of_the_token_only(bench: MakeBench) -> None:
    job = bench(*TASKS, endpoints={"emu": f"127.0.0.1:{free_port('0.0.0.0')}"})
    job.write_records([{"v": 1}])
    make_plan(job.job())
    runner = Runner(job)
    process = await runner.run()
    state = await runner.state(0)
    assert state.waiting_for == ["emu"]
    with pytest.raises(aiohttp.ClientResponseError, match="401"):
        await runner.state(0, token="guessed")
    process.terminate()
    assert await process.wait() == 143


@pytest.mark.slow
async def test_plan_and_commit_tell_their_results_and_errors(bench: MakeBench) -> None:
    job = bench(cpu("a", "sample_functions:double"))
    runner = Runner(job)
    refused = await runner.start("plan")
    assert await refused.wait() == EXIT_PERMANENT
    plan = msgspec.json.decode(runner.log.read_bytes(), type=PlanResult)
    assert (plan.reason, plan.shards) == ("InputNotFound", 0)
    waiting = await runner.start("plan", "--wait-input-seconds", "60")
    assert waiting.stderr is not None
    assert b"waiting for the input" in await waiting.stderr.readline()
    job.write_records([{"v": 1}])
    assert await waiting.wait() == 0
    assert msgspec.json.decode(runner.log.read_bytes(), type=PlanResult).items == 1
    early = await runner.start("commit")
    assert await early.wait() == EXIT_PERMANENT
    assert msgspec.json.decode(runner.log.read_bytes(), type=CommitResult).reason == "PartMissing"
    assert await (await runner.start("run")).wait() == 0
    assert await (await runner.start("commit")).wait() == 0
    result = msgspec.json.decode(runner.log.read_bytes(), type=CommitResult)
    assert (result.items, result.succeeded, result.failed, result.error) == (1, 1, 0, "")
    assert json.loads((job.output / "_manifest.json").read_text())["digest"] == result.digest


def test_the_termination_message_fits_whatever_there_is_to_tell() -> None:
    failures = [ItemFailure(shard=1, item="i" * 400, task="t", message="m" * 5000) for _ in range(10)]
    state = RunnerState(
        revision=1,
        time=1.0,
        shard=1,
        items_total=9,
        items_succeeded=0,
        items_failed=9,
        failures=failures,
        error="e" * 9000,
    )
    raw = fit(state)
    assert len(raw) <= TERMINATION_MESSAGE_MAX_BYTES
    told = msgspec.json.decode(raw, type=RunnerState)
    assert (told.items_failed, told.failures[0].task) == (9, "t")
    assert told.error.startswith("eee")
