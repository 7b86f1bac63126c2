"""A block of items on its way through the DAG: what is ready, what is held, which items failed, and of what. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from batchwright_worker.runner.graph.blobs import Blob
from batchwright_worker.runner.graph.block_values import BlockValues, pack_values, unpack_values
from batchwright_worker.runner.graph.dag import ITEM, Dag, Progress

_UNREADABLE = -1


class TaskResult:
    """Values of one task in the form in which they came; the other form is made when somebody asks for it."""

    __slots__ = ("_blob", "_values", "items", "nbytes")

    def __init__(
        self, items: Sequence[int], *, blob: Blob | None = None, values: BlockValues | None = None, nbytes: int = 0
    ) -> None:
        self._blob = blob
        self._values = values
        self.items = items
        self.nbytes = nbytes or (blob.nbytes if blob is not None else 0)

    @property
    def blob(self) -> Blob:
        """For another process."""
        if self._blob is None:
            assert self._values is not None
            self._blob = pack_values(self._values)
        return self._blob

    @property
    def values(self) -> BlockValues:
        """For this one."""
        if self._values is None:
            assert self._blob is not None
            self._values = unpack_values(self._blob)
        return self._values


class ReadItems(TaskResult):
    """The items as they were read. Packed for CPU tasks, an item is {"id": .., "data": ..}; models and the output take
    `data` alone."""

    __slots__ = ("_data", "_ids")

    def __init__(self, ids: Sequence[str], data: BlockValues, nbytes: int = 0) -> None:
        super().__init__(data.items, nbytes=nbytes)
        self._ids = ids
        self._data: BlockValues | None = data

    @property
    def data(self) -> BlockValues:
        """Of those that could be read."""
        assert self._data is not None
        return self._data

    def pack(self, *, keep_data: bool) -> None:
        """For CPU tasks; and whether anybody else takes them."""
        data = self.data
        rows = [{"id": self._ids[item], "data": each} for item, each in zip(data.items, data.rows, strict=True)]
        self._blob = pack_values(BlockValues(data.items, rows=rows))
        self.nbytes = self._blob.nbytes
        if not keep_data:
            self._data = None


class BlockRun:
    """Consecutive items of a shard, of which the first is at `first`. A task runs for the items for which all tasks
    before it worked; results are dropped as soon as no task needs them."""

    __slots__ = ("_dag", "_errors", "_payload", "_progress", "_results", "first", "ids", "nbytes", "peak_bytes")

    def __init__(
        self, dag: Dag, first: int, ids: Sequence[str], payload: ReadItems, unreadable: Mapping[int, str]
    ) -> None:
        self._dag = dag
        self.first = first
        self.ids = ids
        self._progress = Progress(dag)
        self._payload = payload
        self._results: dict[int, TaskResult] = {}
        self._errors: dict[int, dict[int, str]] = {item: {_UNREADABLE: text} for item, text in unreadable.items()}
        self.nbytes = payload.nbytes
        self.peak_bytes = self.nbytes

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def payload(self) -> ReadItems:
        """The items themselves, those that could be read."""
        return self._payload

    @property
    def finished(self) -> bool:
        """Is every task done?"""
        return not self._progress.remaining

    def error(self, item: int) -> tuple[str, str] | None:
        """Task and message of the first failed task of this item in the manifest's order, None if none failed."""
        errors = self._errors.get(item)
        if errors is None:
            return None
        task = min(errors)
        return ITEM if task == _UNREADABLE else self._dag.nodes[task].name, errors[task]

    def inputs(self, task: int) -> list[tuple[str, TaskResult]]:
        """What a ready task takes: the results it depends on by name, or the items."""
        before = self._dag.before[task]
        if not before:
            return [(ITEM, self._payload)]
        return [(self._dag.nodes[one].name, self._results[one]) for one in before]

    def items(self, task: int) -> Sequence[int]:
        """The items for which a ready task is to be run."""
        first, *others = (result.items for _, result in self.inputs(task))
        if all(len(each) == len(self.ids) for each in (first, *others)):
            return first
        common = set(first).intersection(*others)
        return [item for item in first if item in common]

    def results(self) -> list[tuple[str, TaskResult]]:
        """Results of the sinks, by name."""
        return [(self._dag.nodes[task].name, self._results[task]) for task in self._dag.sinks]

    def done(self, task: int, result: TaskResult, failed: Mapping[int, str]) -> list[int]:
        """Keep a task's result and the failures; the tasks that are ready by this."""
        for item, message in failed.items():
            self._errors.setdefault(item, {})[task] = message
        self._results[task] = result
        self.nbytes += result.nbytes
        self.peak_bytes = max(self.peak_bytes, self.nbytes)
        ready = self._progress.done(task)
        for one in self._progress.releasable(task):
            released = self._results.pop(one, None)
            if released is not None:
                self.nbytes -= released.nbytes
        return ready
