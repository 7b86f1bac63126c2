"""One item on its way through the DAG: what is ready, what is held, and which record it becomes. Pure."""

from __future__ import annotations

from batchwright_worker.runner.graph.blobs import Blob
from batchwright_worker.runner.graph.dag import ITEM, Dag, Progress


class ItemRun:
    """`position` is the item's place in its shard. Results are dropped as soon as no task needs them."""

    __slots__ = ("_dag", "_errors", "_payload", "_progress", "_results", "id", "nbytes", "peak_bytes", "position")

    def __init__(self, dag: Dag, position: int, name: str, payload: Blob) -> None:
        self._dag = dag
        self.position = position
        self.id = name
        self._progress = Progress(dag)
        self._payload: Blob | None = payload
        self._results: dict[int, Blob] = {}
        self._errors: dict[int, str] = {}
        self.nbytes = payload.nbytes
        self.peak_bytes = self.nbytes

    @property
    def finished(self) -> bool:
        """Is every task done, failed or behind a failed one?"""
        return not self._progress.remaining

    @property
    def error(self) -> tuple[str, str] | None:
        """Task and message of the first failed task in the manifest's order, None if none failed."""
        if not self._errors:
            return None
        task = min(self._errors)
        return self._dag.nodes[task].name, self._errors[task]

    def inputs(self, task: int) -> list[tuple[str, Blob]]:
        """What a ready task takes: the results it depends on by name, or the item."""
        before = self._dag.before[task]
        if not before:
            assert self._payload is not None
            return [(ITEM, self._payload)]
        return [(self._dag.nodes[one].name, self._results[one]) for one in before]

    def results(self) -> list[tuple[str, Blob]]:
        """Results of the sinks, by name."""
        return [(self._dag.nodes[task].name, self._results[task]) for task in self._dag.sinks]

    def done(self, task: int, result: Blob) -> list[int]:
        """Keep a task's result; the tasks that are ready by this."""
        self._results[task] = result
        self._grow(result.nbytes)
        ready = self._progress.done(task)
        self._release(task)
        return ready

    def failed(self, task: int, message: str) -> None:
        """Note the failure; what depends on the task will not run."""
        self._errors[task] = message
        self._progress.failed(task)
        self._release(task)

    def _release(self, task: int) -> None:
        for one in self._progress.releasable(task):
            released = self._results.pop(one, None)
            if released is not None:
                self.nbytes -= released.nbytes

    def _grow(self, size: int) -> None:
        self.nbytes += size
        self.peak_bytes = max(self.peak_bytes, self.nbytes)
