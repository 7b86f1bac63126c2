"""Jobs in a folder of their own, and the functions that they use."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchwright_worker.api.messages import JobConfig, RunnerState, TrustedServer
from batchwright_worker.runner.job import Job, make_job
from batchwright_worker.runner.progress import Published, ShardProgress
from batchwright_worker.runner.steps.commit import Committed, commit
from batchwright_worker.runner.steps.engines import check_models, open_engines
from batchwright_worker.runner.steps.plan import make_plan
from batchwright_worker.runner.steps.shard import do_shard, run_shard, shard_step

FUNCTIONS = Path(__file__).parent / "functions"


def cpu(name: str, function: str, *before: str, **args: Any) -> dict[str, Any]:
    """A CPU task."""
    return {"name": name, "dependsOn": list(before), "cpu": {"function": function, "args": args}}


def model(name: str, deployment: str, model: str, *before: str) -> dict[str, Any]:
    """A model task."""
    return {"name": name, "dependsOn": list(before), "model": {"deployment": deployment, "model": model}}


@dataclass(slots=True)
class Bench:
    """A job over `folder/input` to `folder/output`."""

    folder: Path
    tasks: Sequence[dict[str, Any]] = ()
    input_format: str = "jsonl"
    output_format: str = "jsonl"
    shard_size: int = 100
    workers: int = 1
    endpoints: dict[str, str] = field(default_factory=dict)
    tls: dict[str, TrustedServer] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    output_more: dict[str, Any] = field(default_factory=dict)
    """Further fields of `output`; those of `input` are `input_more`."""
    input_more: dict[str, Any] = field(default_factory=dict)
    folders: Sequence[Path] = ()

    @property
    def input(self) -> Path:
        return self.folder / "input"

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def config(self) -> JobConfig:
        spec: dict[str, Any] = {
            "input": {"uri": self.input.as_uri(), "format": self.input_format, "shardSize": self.shard_size}
            | self.input_more,
            "output": {"uri": self.output.as_uri(), "format": self.output_format} | self.output_more,
            "tasks": list(self.tasks),
            "runner": {"cpuWorkers": self.workers},
        }
        return JobConfig(
            name="job", namespace="n", uid="u", spec=spec | self.more, endpoints=self.endpoints, tls=self.tls
        )

    def job(self) -> Job:
        return make_job(self.config(), folders=(str(FUNCTIONS), *map(str, self.folders)))

    def write_records(self, records: Sequence[dict[str, Any]], name: str = "data.jsonl") -> None:
        self.input.mkdir(parents=True, exist_ok=True)
        (self.input / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    async def run_shard(self, index: int) -> RunnerState:
        return await run_shard(shard_step(self.job(), index), unpublished)

    async def commit(self) -> Committed:
        return await asyncio.to_thread(commit, self.job())

    async def run_all(self) -> Committed:
        """All steps in this process, as in local mode."""
        job = self.job()
        plan = make_plan(job)
        async with open_engines(job, workers=self.workers) as engines:
            await check_models(job, engines)
            for index in range(plan.shards):
                step = shard_step(job, index)
                await do_shard(step, engines, ShardProgress(index, job.dag, step.shard.items))
        return await self.commit()

    def records(self) -> list[dict[str, Any]]:
        """Results and error records of jsonl parts, in the order of the items."""
        return [record for part in sorted(self.output.glob("part-*.jsonl")) for record in self._records(part)]

    def _records(self, part: Path) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in part.read_bytes().splitlines()]
        for file in (self.output / "_errors").glob(f"{part.stem}-*.jsonl"):
            for line in file.read_bytes().splitlines():
                record = json.loads(line)
                records.insert(record.pop("position"), record)
        return records

    def results(self, task: str) -> list[Any]:
        """What a task gave for each item; an item without it fails the test, with its record."""
        records = self.records()
        lacking = [record for record in records if task not in record]
        assert not lacking, f"{len(lacking)} of {len(records)} items have no {task!r}, first {lacking[0]}"
        return [record[task] for record in records]

    def parts(self) -> dict[str, bytes]:
        return {part.name: part.read_bytes() for part in sorted(self.output.glob("part-*"))}


@contextlib.asynccontextmanager
async def unpublished(_: Published) -> AsyncIterator[None]:
    """No control port."""
    yield
