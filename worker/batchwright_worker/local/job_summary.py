"""What came of a job that was run on this machine, for programs and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from batchwright_worker.api.messages import LATENCY_BOUNDS_MS, ItemFailure, TaskState
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.outputs.error_records import (
    FailureReason,
    error_records,
    reason_fields,
    reason_line,
    reasons,
)
from batchwright_worker.runner.steps.commit import Committed, Manifest, Retry

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalResult:
    """The outcome of `run`. `start_s` passed until the models answered, `run_s` from then until the manifest was
    written; both are 0 if the output was complete already."""

    job: Job
    manifest: Manifest
    tasks: Sequence[TaskState] = ()
    failures: Sequence[ItemFailure] = ()
    reasons: Sequence[FailureReason] = ()
    retry: Retry | None = None
    start_s: float = 0.0
    run_s: float = 0.0

    @property
    def failed(self) -> int:
        """Items that failed."""
        return self.manifest.failed

    @property
    def _ran(self) -> int:
        """Items that this run was about."""
        return self.manifest.items if self.retry is None else self.retry.items

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "reason": "FailedItems" if self.manifest.failed else "Completed",
            "items": self.manifest.items,
            "succeeded": self.manifest.succeeded,
            "failed": self.manifest.failed,
            "startSeconds": round(self.start_s, 3),
            "runSeconds": round(self.run_s, 3),
            "itemsPerSecond": round(self._ran / self.run_s, 3) if self.run_s else None,
            "retried": None if self.retry is None else {"items": self.retry.items, "succeeded": self.retry.succeeded},
            "meanBatchSizes": {task.name: task.mean_batch_size for task in self.tasks if task.rows},
            "tasks": [_task(task) for task in self.tasks],
            "failureReasons": [reason_fields(reason) for reason in self.reasons],
            "failures": [
                {"item": failure.item, "task": failure.task, "message": failure.message} for failure in self.failures
            ],
            "filesLeftOut": self.manifest.files_left_out,
            "output": self.job.spec.output.uri,
        }

    def as_text(self) -> str:
        """For people."""
        manifest, uri = self.manifest, self.job.spec.output.uri
        counts = f"{manifest.succeeded} of {manifest.items} items succeeded, {manifest.failed} failed"
        if not self.run_s:
            lines = [f"{self.job.name} is complete already: {counts}, in {uri}; nothing to do"]
        else:
            speed = f"{self.run_s:.1f} s, {self._ran / self.run_s:.2f} items/s, after {self.start_s:.1f} s to start"
            lines = [
                f"{self.job.name}: {counts}; {speed}",
                f"output: {uri} ({len(manifest.parts)} parts, _manifest.json)",
            ]
        if self.retry is not None:
            lines.append(f"{self.retry.items} failed items were run again: {self.retry.succeeded} succeeded")
        if manifest.selection is not None:
            lines.append(f"this is not the whole data set: {manifest.selection.title} of the input")
        if manifest.files_left_out:
            names = ", ".join(manifest.left_out_names[:5])
            lines.append(f"left out of the input: {manifest.files_left_out} files of other suffixes, first {names}")
        lines += [_task_line(task) for task in self.tasks]
        lines += map(reason_line, self.reasons[:_SHOWN])
        if manifest.failed:
            lines.append(f"every failed item: {uri}/_errors; --retry-failed repeats these alone")
        return "\n".join(lines)


def result_of(job: Job, done: Committed, *, start_s: float = 0.0, run_s: float = 0.0) -> LocalResult:
    """With the reasons of all failures, which are read from the output. Blocking."""
    output = job.output()
    files = [part.errors for part in done.manifest.parts if part.errors]
    return LocalResult(
        job=job,
        manifest=done.manifest,
        tasks=done.tasks,
        failures=done.failures,
        retry=done.retry,
        reasons=reasons(record for name in files for record in error_records(output, name)),
        start_s=start_s,
        run_s=run_s,
    )


def _task(task: TaskState) -> dict[str, Any]:
    p95 = p95_ms(task.latency_counts)
    return {
        "name": task.name,
        "kind": task.kind,
        "succeeded": task.succeeded,
        "failed": task.failed,
        "rows": task.rows,
        "requests": task.batches,
        "meanBatchSize": task.mean_batch_size,
        "p95Milliseconds": p95,
    }


def _task_line(task: TaskState) -> str:
    words = [f"task {task.name}: {task.succeeded} items"]
    if task.failed:
        words.append(f"{task.failed} failed")
    if task.rows:
        words.append(f"{task.rows} rows, mean batch {task.mean_batch_size:g}")
    if (p95 := p95_ms(task.latency_counts)) is not None:
        words.append(f"p95 {p95:g} ms with the wait for its turn")
    return ", ".join(words)


def p95_ms(counts: Sequence[int]) -> float | None:
    """Upper bound of the bucket that holds the 95th percentile; None without counts, and above the last bound."""
    total = sum(counts)
    place = next((at for at, below in enumerate(accumulate(counts)) if below >= 0.95 * total), 0)
    return LATENCY_BOUNDS_MS[place] if total and place < len(LATENCY_BOUNDS_MS) else None
