"""One shard through the DAG: reads within the window, feeds the two-level queue and the models, writes in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from batchwright_worker.runner.cpu.pool import Call
from batchwright_worker.runner.errors import StepFailed, TaskFailed
from batchwright_worker.runner.graph.blobs import Blob, pack, unpack
from batchwright_worker.runner.graph.dag import ITEM, Dag
from batchwright_worker.runner.graph.item_run import ItemRun
from batchwright_worker.runner.graph.two_level_queue import TwoLevelQueue
from batchwright_worker.runner.graph.window import Window
from batchwright_worker.runner.inputs.items import Item
from batchwright_worker.runner.models.call import ModelCall
from batchwright_worker.runner.models.signature import rows_of
from batchwright_worker.runner.outputs.parts import PartWriter, RecordEncoder
from batchwright_worker.runner.progress import ShardProgress
from batchwright_worker.runner.steps.engines import TaskEngines

_READ_AT_ONCE = 64
_Ready = tuple[int, float]
"""A ready task: its number, and since when."""


class ShardRun:
    """One run: records go to `writer`, counts to `progress`; at most `max_failed` items may fail (None: any number)."""

    def __init__(
        self,
        dag: Dag,
        engines: TaskEngines,
        writer: PartWriter,
        progress: ShardProgress,
        window: Window,
        *,
        max_failed: int | None = None,
    ) -> None:
        self._dag = dag
        self._engines = engines
        self._writer = writer
        self._progress = progress
        self._window = window
        self._max_failed = max_failed
        self._ready: TwoLevelQueue[int, _Ready] = TwoLevelQueue()
        self._items: dict[int, ItemRun] = {}
        self._running_bytes = 0
        self._records = RecordEncoder()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self, items: Iterator[Item]) -> None:
        """Write a record for every item. Raises StepFailed; what still runs then is dropped."""
        self._engines.pool.attach(self)
        try:
            await self._read(items)
            while self._items and self._failure is None:
                await self._change()
        finally:
            self._engines.pool.detach(self)
        if self._failure is not None:
            raise self._failure

    def fail(self, error: BaseException) -> None:
        """End the run with this error."""
        self._failure = self._failure or error
        self._changed.set()

    def take(self) -> Call | None:
        """For the pool: the first ready task of the first item that has one (B3)."""
        taken = self._ready.take()
        if taken is None:
            return None
        item, (task, since) = self._items[taken[0]], taken[1]
        return Call(
            function=self._engines.functions[task],
            inputs=item.inputs(task),
            done=lambda result, _: self._done(item, task, result, since),
            failed=partial(self._failed, item, task),
        )

    async def _read(self, items: Iterator[Item]) -> None:
        position = 0
        while self._failure is None:
            if not (room := self._window.room):
                await self._change()
                continue
            batch = await asyncio.to_thread(_next_items, items, min(room, _READ_AT_ONCE))
            if not batch:
                return
            for item, payload in batch:
                self._start(position, item, payload)
                position += 1
            self._engines.pool.wake()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _start(self, position: int, item: Item, payload: Blob) -> None:
        run = ItemRun(self._dag, position, item.id, payload)
        self._items[position] = run
        self._running_bytes += run.nbytes
        self._ready.arrive(position)
        if item.error:
            self._end(run, (ITEM, item.error))
            return
        self._weigh()
        self._make_ready(run, self._dag.roots)

    def _make_ready(self, run: ItemRun, tasks: Sequence[int]) -> None:
        now = time.monotonic()
        for task in tasks:
            if self._dag.nodes[task].kind == "CPU":
                self._ready.ready(run.position, (task, now))
            else:
                self._ask_model(run, task, now)

    def _ask_model(self, run: ItemRun, task: int, since: float) -> None:
        client = self._engines.models[task]
        assert client.signature is not None
        ((name, blob),) = run.inputs(task)
        value = unpack(blob)
        try:
            rows, many = rows_of(value["data"] if name == ITEM else value, client.signature)
        except TaskFailed as error:
            _soon(partial(self._failed, run, task, str(error)))
            return
        call = ModelCall(
            len(rows),
            self._progress.tasks[task],
            many=many,
            done=partial(self._model_done, run, task, since),
            failed=partial(self._failed, run, task),
        )
        if rows:
            client.submit(call.pending(rows))
        else:
            _soon(call.finish)

    def _model_done(self, run: ItemRun, task: int, since: float, value: Any) -> None:
        self._done(run, task, pack(value), since)
        self._engines.pool.wake()

    def _done(self, run: ItemRun, task: int, result: Blob, since: float) -> None:
        if self._failure is not None:
            return
        counters = self._progress.tasks[task]
        counters.succeeded += 1
        counters.latency(time.monotonic() - since)
        before = run.nbytes
        ready = run.done(task, result)
        self._settled(run, before)
        self._make_ready(run, ready)

    def _failed(self, run: ItemRun, task: int, message: str) -> None:
        if self._failure is not None:
            return
        self._progress.tasks[task].failed += 1
        before = run.nbytes
        run.failed(task, message)
        self._settled(run, before)

    def _settled(self, run: ItemRun, bytes_before: int) -> None:
        self._running_bytes += run.nbytes - bytes_before
        if run.finished:
            self._end(run, run.error)
        else:
            self._weigh()

    def _end(self, run: ItemRun, error: tuple[str, str] | None) -> None:
        del self._items[run.position]
        self._ready.finish(run.position)
        self._running_bytes -= run.nbytes
        self._window.finished(run.peak_bytes)
        try:
            self._writer.put(run.position, self._record(run, error))
        except StepFailed as failure:
            self.fail(failure)
        self._weigh()
        self._changed.set()

    def _weigh(self) -> None:
        self._window.items = len(self._items) + self._writer.waiting
        self._window.bytes = self._running_bytes + self._writer.waiting_bytes

    def _record(self, run: ItemRun, error: tuple[str, str] | None) -> bytes:
        if error is None:
            try:
                return self._success(run)
            except TaskFailed as failure:
                error = (self._dag.nodes[self._dag.sinks[-1]].name, str(failure))
        self._progress.item_failed(run.id, *error)
        if self._max_failed is not None and self._progress.failed > self._max_failed:
            message = (
                f"{self._progress.failed} items failed, maxFailedItems is {self._max_failed}; the last one: item "
                f"{run.id}, task {error[0]}: {error[1]}"
            )
            raise StepFailed("TooManyFailedItems", message)
        return self._records.failure(run.id, *error)

    def _success(self, run: ItemRun) -> bytes:
        record = self._records.success(run.id, {name: unpack(blob) for name, blob in run.results()})
        self._progress.succeeded += 1
        return record


def _soon(settle: Callable[[], None]) -> None:
    """Settle in a turn of its own: a task never ends inside its start."""
    asyncio.get_running_loop().call_soon(settle)


def _next_items(items: Iterator[Item], count: int) -> list[tuple[Item, Blob]]:
    return [(item, pack({"id": item.id, "data": item.data})) for item in islice(items, count)]
