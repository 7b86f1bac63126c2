"""How far an InferenceJob is, from what its runners say; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from batchwright_operator.jobs.facts import JobFacts
from batchwright_operator.jobs.runner_pods import RunPod
from batchwright_operator.kube.conditions import shorten
from batchwright_operator.kube.objects import Raw
from batchwright_operator.status.percentiles import percentile_ms, pool
from batchwright_worker.api.messages import ItemFailure, RunnerState, TaskState

RATE_WINDOW_S: Final = 60.0
FAILURE_LIMIT: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Counts of items, and the measured rate in items/s (None: nothing measured)."""

    total: int | None = None
    succeeded: int = 0
    failed: int = 0
    rate: float | None = None

    @property
    def done(self) -> int:
        return self.succeeded + self.failed

    @property
    def remaining_s(self) -> int | None:
        """Seconds until the rest is done at the measured rate."""
        if self.total is None or not self.rate:
            return None
        return ceil(max(0, self.total - self.done) / self.rate)

    @property
    def percentage(self) -> int | None:
        return None if not self.total else min(100, 100 * self.done // self.total)


def progress(facts: JobFacts, now: float) -> Progress:
    """Exact after commit; before, finished shards by their final state and running ones by their newest.

    A runner that is killed takes its count along: its shard counts again from the next runner's state. While some
    running runner has not reported yet (the operator has just started), no count falls below the written one.
    """
    total = _total(facts)
    if facts.commit_result is not None and not facts.commit_result.error:
        result = facts.commit_result
        rate = _rate(facts, result.items, now)
        return Progress(total=result.items, succeeded=result.succeeded, failed=result.failed, rate=rate)
    states = [*facts.finished.values(), *current_states(facts)]
    succeeded = sum(state.items_succeeded for state in states) + _unknown(facts, total)
    failed = sum(state.items_failed for state in states)
    written = facts.old.get("items") or {}
    if any(pod.state is None for pod in current_pods(facts)):
        succeeded = max(succeeded, int(written.get("succeeded") or 0))
        failed = max(failed, int(written.get("failed") or 0))
    return Progress(total=total, succeeded=succeeded, failed=failed, rate=_rate(facts, succeeded + failed, now))


def _total(facts: JobFacts) -> int | None:
    if facts.plan_result is not None and not facts.plan_result.error:
        return facts.plan_result.items
    written = (facts.old.get("items") or {}).get("total")
    return None if written is None else int(written)


def current_pods(facts: JobFacts) -> list[RunPod]:
    """The newest running pod of every shard that is not finished."""
    newest: dict[int, RunPod] = {}
    for pod in sorted(facts.pods, key=lambda each: (not each.leaving, each.created, each.name)):
        if pod.start is not None and pod.end is None and pod.shard not in facts.finished:
            newest[pod.shard] = pod
    return [newest[shard] for shard in sorted(newest)]


def current_states(facts: JobFacts) -> list[RunnerState]:
    """What the running runners say."""
    return [pod.state for pod in current_pods(facts) if pod.state is not None]


def _unknown(facts: JobFacts, total: int | None) -> int:
    """Items of shards that Kubernetes counts as done and whose final states are lost: they are taken as succeeded
    until commit has counted."""
    if facts.run is None or total is None or not (shards := facts.shards):
        return 0
    lost = [shard for shard in indexes(facts.run.completed_indexes) if shard not in facts.finished]
    size = facts.job.spec.input.shard_size
    if shards != ceil(total / size):
        return len(lost) * total // shards
    return sum(min(size, total - shard * size) for shard in lost)


def indexes(text: str) -> Iterator[int]:
    """The numbers in the text format of an Indexed Job: `0-3,7` -> 0 1 2 3 7."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _rate(facts: JobFacts, done: int, now: float) -> float | None:
    """Items per second over the last minute of the run; over all of the run once it has ended. The items of a
    runner are taken as spread evenly over the time that it ran."""
    if facts.run is None or facts.run.start is None:
        return None
    if facts.run.ended:
        end = facts.run.end or max((end for _, end, _ in _work(facts)), default=facts.run.start)
        return done / (end - facts.run.start) if done and end > facts.run.start else None
    since = max(now - RATE_WINDOW_S, facts.run.start)
    items = sum(items * _overlap(start, end, since, now) / max(end - start, 1e-9) for start, end, items in _work(facts))
    return items / (now - since) if items > 0 and now > since else None


def _work(facts: JobFacts) -> Iterator[tuple[float, float, int]]:
    """(start, end, items) of every runner that counts: the running ones up to their state, and the good ends."""
    for pod in facts.pods:
        counts = pod.exit_code in (None, 0)
        if counts and pod.start is not None and pod.state is not None:
            end = pod.end if pod.end is not None else pod.state.time
            yield pod.start, max(end, pod.start + 1e-3), pod.state.items_succeeded + pod.state.items_failed


def _overlap(start: float, end: float, since: float, until: float) -> float:
    return max(0.0, min(end, until) - max(start, since))


# --- tasks and failures


def tasks(facts: JobFacts) -> list[Raw]:
    """Per task, in the order of the spec: counts over all shards, p95 from pooled histograms, and mean batch size."""
    done = facts.commit_result.tasks if facts.commit_result is not None and not facts.commit_result.error else []
    reported = [task for state in (*facts.finished.values(), *current_states(facts)) for task in state.tasks]
    written = {str(each.get("name")): each for each in facts.old.get("tasks") or ()}
    found = []
    for task in facts.job.tasks:
        kind = "CPU" if task.model is None else "Model"
        exact = [each for each in done if each.name == task.name]
        counted = exact or [each for each in reported if each.name == task.name]
        found.append(_task(task.name, kind, counted, reported, written.get(task.name, {})))
    return found


def _task(name: str, kind: str, counted: Sequence[TaskState], reported: Sequence[TaskState], old: Raw) -> Raw:
    body: Raw = {
        "name": name,
        "kind": kind,
        "succeeded": sum(each.succeeded for each in counted),
        "failed": sum(each.failed for each in counted),
    }
    mine = [each for each in reported if each.name == name]
    p95 = percentile_ms(pool(each.latency_counts for each in mine), 0.95)
    p95 = p95 if p95 is not None else old.get("p95Milliseconds")
    size = _mean_batch_size([*mine, *counted]) if kind == "Model" else None
    size = size if size is not None else old.get("meanBatchSize")
    return body | ({} if p95 is None else {"p95Milliseconds": p95}) | ({} if size is None else {"meanBatchSize": size})


def _mean_batch_size(states: Iterable[TaskState]) -> str | None:
    """Mean over rows."""
    weighed = [(each.rows, each.mean_batch_size) for each in states if each.rows and each.mean_batch_size]
    rows = sum(count for count, _ in weighed)
    return f"{sum(count * size for count, size in weighed) / rows:.1f}" if rows else None


def failures(facts: JobFacts) -> list[Raw]:
    """The first few failed items, by shard; what is written stays, for its pod may be gone."""
    states = [*facts.finished.values(), *current_states(facts)]
    reported = [_failure(each) for state in states for each in state.failures]
    reported += [_failure(each) for each in (facts.commit_result.failures if facts.commit_result else [])]
    every = {_place(each): each for each in [*(facts.old.get("failures") or ()), *reported]}
    return [every[place] for place in sorted(every)][:FAILURE_LIMIT]


def _failure(failure: ItemFailure) -> Raw:
    return {
        "shard": failure.shard,
        "item": failure.item,
        "task": failure.task,
        "message": shorten(failure.message, 300),
    }


def _place(failure: Raw) -> tuple[int, str, str]:
    return int(failure.get("shard") or 0), str(failure.get("item")), str(failure.get("task"))
