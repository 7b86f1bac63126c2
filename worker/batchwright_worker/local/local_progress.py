"""How far the shards of a job are that this process works on, for its progress and for its page. No I/O."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from batchwright_worker.api.messages import ItemFailure, PlanResult
from batchwright_worker.dashboard.overview import FailureView, TaskView
from batchwright_worker.local.overview import JobHere
from batchwright_worker.local.progress_display import Rate
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.progress import FIRST_FAILURES, ShardProgress


@dataclass(slots=True)
class LocalProgress:
    """Items of all shards that have begun: shards that have ended are only counted."""

    running: list[ShardProgress] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    """Indexes of the shards whose part stands."""
    tasks: dict[str, TaskView] = field(default_factory=dict)
    """Of the shards that have ended."""
    failures: list[ItemFailure] = field(default_factory=list)
    """The first of the shards that have ended."""
    _ended_items: int = 0
    _ended_failed: int = 0

    @property
    def done(self) -> int:
        """Items that succeeded or failed."""
        return self._ended_items + sum(shard.succeeded + shard.failed for shard in self.running)

    @property
    def failed(self) -> int:
        """Items that failed."""
        return self._ended_failed + sum(shard.failed for shard in self.running)

    def all_tasks(self, shards: Sequence[ShardProgress]) -> dict[str, TaskView]:
        """Each task over the shards that have ended, and over these."""
        found = dict(self.tasks)
        for counters in (each for shard in shards for each in shard.tasks):
            before = found.get(counters.name, TaskView(name=counters.name, kind=counters.kind))
            state = counters.state()
            found[counters.name] = msgspec.structs.replace(
                before,
                succeeded=before.succeeded + counters.succeeded,
                failed=before.failed + counters.failed,
                mean_batch=state.mean_batch_size or before.mean_batch,
            )
        return found

    def end(self, shard: ShardProgress) -> None:
        """A shard's part stands."""
        self.running.remove(shard)
        self.ended.append(shard.shard)
        self.tasks = self.all_tasks([shard])
        self.failures += shard.failures[: FIRST_FAILURES - len(self.failures)]
        self._ended_items += shard.succeeded + shard.failed
        self._ended_failed += shard.failed


def job_here(job: Job, plan: PlanResult, progress: LocalProgress, rate: Rate, started: float) -> JobHere:
    """The job as the board shows it now."""
    done, failed = progress.done, progress.failed
    failures = [*progress.failures, *(each for shard in progress.running for each in shard.failures)][:FIRST_FAILURES]
    complete = done >= plan.items and not progress.running
    return JobHere(
        name=job.name,
        namespace=job.namespace,
        output=job.spec.output.uri,
        total=plan.items,
        shards=plan.shards,
        shards_done=sorted(progress.ended),
        succeeded=done - failed,
        failed=failed,
        rate=rate.per_second(done, time.monotonic()),
        started_at=started,
        ended_at=time.time() if complete else None,
        tasks=list(progress.all_tasks(progress.running).values()),
        failures=[
            FailureView(item=each.item, task=each.task, message=each.message, shard=each.shard) for each in failures
        ],
    )
