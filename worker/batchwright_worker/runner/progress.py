"""Counters of one shard, and the state that the control port and the termination message tell."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from batchwright_worker.api.messages import LATENCY_BOUNDS_MS, CommitResult, ItemFailure, RunnerState, TaskState
from batchwright_worker.api.names import TERMINATION_MESSAGE_MAX_BYTES
from batchwright_worker.runner.errors import shortened
from batchwright_worker.runner.graph.dag import Dag

FIRST_FAILURES: Final = 10
PUBLISH_SECONDS: Final = 0.5


@dataclass(slots=True, kw_only=True)
class TaskCounters:
    """One task over the items of a shard; latency is from ready to done."""

    name: str
    kind: str
    succeeded: int = 0
    failed: int = 0
    rows: int = 0
    requests: float = 0.0
    batch_rows: float = 0.0
    batches: float = 0.0
    latency_counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_MS) + 1))

    def latency(self, seconds: float, count: int = 1) -> None:
        """Count so many that took this long."""
        self.latency_counts[bisect_left(LATENCY_BOUNDS_MS, seconds * 1000.0)] += count

    def answered_rows(self, count: int, *, batch_size: int | None, request_rows: int) -> None:
        """Count rows that came back in a request of `request_rows` and in a batch of `batch_size`."""
        self.rows += count
        self.requests += count / request_rows
        if batch_size:
            self.batch_rows += count
            self.batches += count / batch_size

    def state(self) -> TaskState:
        """As the control port reports it."""
        return TaskState(
            name=self.name,
            kind=self.kind,
            succeeded=self.succeeded,
            failed=self.failed,
            rows=self.rows,
            batches=round(self.requests),
            mean_batch_size=round(self.batch_rows / self.batches, 2) if self.batches else 0.0,
            latency_counts=list(self.latency_counts),
        )


class ShardProgress:
    """What one shard has done so far; `touch` after a change publishes it within PUBLISH_SECONDS."""

    def __init__(self, shard: int, dag: Dag, items: int) -> None:
        self.shard = shard
        self.items_total = items
        self._dag = dag
        self.restart()

    def restart(self) -> None:
        """The shard is begun again: nothing is done."""
        self.succeeded = 0
        self.failed = 0
        self.tasks = [TaskCounters(name=node.name, kind=node.kind) for node in self._dag.nodes]
        self.failures: list[ItemFailure] = []

    def item_failed(self, item: str, task: str, message: str) -> None:
        """Count a failed item and keep the first few."""
        self.failed += 1
        if len(self.failures) < FIRST_FAILURES:
            self.failures.append(ItemFailure(shard=self.shard, item=item, task=task, message=message))

    def state(
        self, revision: int, *, waiting_for: Sequence[str] = (), done: bool = False, error: str = ""
    ) -> RunnerState:
        """As the control port reports it."""
        return RunnerState(
            revision=revision,
            time=time.time(),
            shard=self.shard,
            items_total=self.items_total,
            items_succeeded=self.succeeded,
            items_failed=self.failed,
            done=done,
            waiting_for=list(waiting_for),
            error=error,
            tasks=[task.state() for task in self.tasks],
            failures=list(self.failures),
        )


class Published:
    """The newest state, for long-polls: its revision grows with every `publish`."""

    def __init__(self, first: RunnerState) -> None:
        self._state = first
        self._changed = asyncio.Condition()

    @property
    def state(self) -> RunnerState:
        """The newest."""
        return self._state

    async def publish(self, make: Callable[[int], RunnerState]) -> None:
        """Replace the state by `make(revision)` if more than revision and time differ."""
        state = make(self._state.revision + 1)
        if _content(state) == _content(self._state):
            return
        async with self._changed:
            self._state = state
            self._changed.notify_all()

    async def after(self, revision: int, timeout_s: float) -> RunnerState:
        """The state, as soon as its revision is larger than the given one, or after the timeout."""
        try:
            async with self._changed:
                await asyncio.wait_for(
                    self._changed.wait_for(lambda: self._state.revision > revision), timeout=timeout_s
                )
        except TimeoutError:
            pass
        return self._state


def _content(state: RunnerState) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(state, revision=0, time=0.0))


def merged_tasks(shards: Sequence[Sequence[TaskState]]) -> list[TaskState]:
    """Totals per task, in the order of the first shard that has it."""
    totals: dict[str, TaskCounters] = {}
    for shard in shards:
        for state in shard:
            total = totals.setdefault(state.name, TaskCounters(name=state.name, kind=state.kind))
            total.succeeded += state.succeeded
            total.failed += state.failed
            total.rows += state.rows
            total.requests += state.batches
            if state.mean_batch_size:
                total.batch_rows += state.rows
                total.batches += state.rows / state.mean_batch_size
            for index, count in enumerate(state.latency_counts[: len(total.latency_counts)]):
                total.latency_counts[index] += count
    return [total.state() for total in totals.values()]


def fit(message: RunnerState | CommitResult) -> bytes:
    """The message as JSON of at most 4 KiB: latencies go first, then failures (longest texts, then whole ones)."""
    tasks = [msgspec.structs.replace(task, latency_counts=[]) for task in message.tasks]
    message = msgspec.structs.replace(message, tasks=tasks, error=shortened(message.error, 1000))
    for text_limit in (500, 200, 80):
        failures = [_shorter(failure, text_limit) for failure in message.failures]
        message = msgspec.structs.replace(message, failures=failures)
        if len(raw := msgspec.json.encode(message)) <= TERMINATION_MESSAGE_MAX_BYTES:
            return raw
    while message.failures and len(msgspec.json.encode(message)) > TERMINATION_MESSAGE_MAX_BYTES:
        message = msgspec.structs.replace(message, failures=message.failures[:-1])
    while message.tasks and len(msgspec.json.encode(message)) > TERMINATION_MESSAGE_MAX_BYTES:
        message = msgspec.structs.replace(message, tasks=message.tasks[:-1])
    return msgspec.json.encode(message)


def _shorter(failure: ItemFailure, limit: int) -> ItemFailure:
    return msgspec.structs.replace(
        failure, item=shortened(failure.item, max(limit, 100)), message=shortened(failure.message, limit)
    )
