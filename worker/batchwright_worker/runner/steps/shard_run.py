"""One shard through the DAG: reads within the window, feeds the two-level queue and the models, writes in order.

Work moves in blocks of consecutive items. Method B3 serves blocks in the order of their items, and the tasks of a block
in the order in which they became ready; within a task of a block, items go in their order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from batchwright_worker.runner.cpu.pool import Call
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.graph.blobs import Blob
from batchwright_worker.runner.graph.block_run import BlockRun, ReadItems, TaskResult
from batchwright_worker.runner.graph.block_size import block_items
from batchwright_worker.runner.graph.block_values import BlockValues, pack_values
from batchwright_worker.runner.graph.dag import ITEM
from batchwright_worker.runner.graph.two_level_queue import TwoLevelQueue
from batchwright_worker.runner.graph.window import Window
from batchwright_worker.runner.inputs.items import Item
from batchwright_worker.runner.job import Job
from batchwright_worker.runner.models.call import ModelCall
from batchwright_worker.runner.models.row_block import asked_rows
from batchwright_worker.runner.outputs.parts import PartWriter
from batchwright_worker.runner.outputs.records import BlockResults
from batchwright_worker.runner.progress import ShardProgress
from batchwright_worker.runner.steps.engines import TaskEngines
from batchwright_worker.runner.steps.failure_limit import FailureLimit

_Ready = tuple[int, float]
"""A ready task: its number, and since when."""


class ShardRun:
    """One run: records go to `writer`, counts to `progress`; too many failed items for `limit` end it."""

    def __init__(
        self,
        job: Job,
        engines: TaskEngines,
        writer: PartWriter,
        progress: ShardProgress,
        window: Window,
        *,
        limit: FailureLimit,
    ) -> None:
        self._dag = job.dag
        self._pass_through = job.spec.output.pass_through
        kinds = {job.dag.nodes[task].kind for task in job.dag.roots}
        self._packs, self._keeps_data = "CPU" in kinds, "Model" in kinds or bool(self._pass_through)
        self._engines = engines
        self._writer = writer
        self._progress = progress
        self._window = window
        self._limit = limit
        self._ready: TwoLevelQueue[int, _Ready] = TwoLevelQueue()
        self._blocks: dict[int, BlockRun] = {}
        self._running_items = 0
        self._running_bytes = 0
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None

    async def run(self, items: Iterator[Item], on_read: Callable[[], None]) -> None:
        """Write a record for every item; `on_read` is called when the last one has been read, and others may be read
        while these are worked off. Raises StepFailed; what still runs then is dropped."""
        self._engines.pool.attach(self)
        try:
            await self._read(items)
            on_read()
            while self._blocks and self._failure is None:
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
        """For the pool: the first ready task of the first block that has one (B3)."""
        taken = self._ready.take()
        if taken is None:
            return None
        block, (task, since) = self._blocks[taken[0]], taken[1]
        return Call(
            function=self._engines.functions[task],
            inputs=[(name, result.blob) for name, result in block.inputs(task)],
            items=block.items(task),
            done=lambda blob, failed: self._called(block, task, blob, failed, since),
        )

    async def _read(self, items: Iterator[Item]) -> None:
        first = 0
        while self._failure is None:
            if not (room := self._window.room):
                await self._change()
                continue
            pace = self._engines.pace
            pace.block_items = block_items(self._cpu_seconds(), self._model_items(), pace.block_items)
            block = await asyncio.to_thread(self._next_block, items, first, min(room, pace.block_items))
            if block is None:
                return
            self._start(block)
            self._engines.pool.wake()
            first += len(block)

    def _next_block(self, items: Iterator[Item], first: int, count: int) -> BlockRun | None:
        """The next items, packed where CPU tasks take them; None at the end. Blocking."""
        read = list(islice(items, count))
        if not read:
            return None
        unreadable = {number: item.error for number, item in enumerate(read) if item.error}
        readable = [number for number, item in enumerate(read) if not item.error] if unreadable else range(len(read))
        data = BlockValues(readable, rows=[read[number].data for number in readable])
        ids, sizes = [item.id for item in read], [read[number].nbytes for number in readable]
        payload = ReadItems(ids, data, sum(sizes))
        if self._packs or not all(sizes):
            payload.pack(keep_data=self._keeps_data)
        return BlockRun(self._dag, first, ids, payload, unreadable)

    def _cpu_seconds(self) -> Iterator[float | None]:
        """What each CPU task lately took for an item."""
        return (self._engines.pool.item_seconds(number) for number in self._engines.functions.values())

    def _model_items(self) -> Iterator[float | None]:
        """Items of which the rows are at each model's replicas together."""
        for task, client in self._engines.models.items():
            rows = self._engines.pace.item_rows.get(task)
            yield client.window_rows / rows if rows else None

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _start(self, block: BlockRun) -> None:
        self._blocks[block.first] = block
        self._running_items += len(block)
        self._running_bytes += block.nbytes
        self._ready.arrive(block.first)
        self._weigh()
        self._make_ready(block, self._dag.roots)

    def _make_ready(self, block: BlockRun, tasks: Sequence[int]) -> None:
        now = time.monotonic()
        for task in tasks:
            if not block.items(task):
                # a turn of its own: a task never ends inside its start
                asyncio.get_running_loop().call_soon(partial(self._answered, block, task, now, BlockValues(()), {}))
            elif self._dag.nodes[task].kind == "CPU":
                self._ready.ready(block.first, (task, now))
            else:
                self._ask_model(block, task, now)

    def _ask_model(self, block: BlockRun, task: int, since: float) -> None:
        client = self._engines.models[task]
        assert client.signature is not None
        ((name, result),) = block.inputs(task)
        values = block.payload.data if name == ITEM else result.values
        asked = asked_rows(values, block.items(task), client.signature)
        call = ModelCall(asked, self._progress.tasks[task], partial(self._answered, block, task, since))
        if asked.rows:
            client.submit(call.pending())
        else:
            asyncio.get_running_loop().call_soon(call.finish)

    def _called(self, block: BlockRun, task: int, blob: Blob, failed: Mapping[int, str], since: float) -> None:
        items = block.items(task)
        worked = [item for item in items if item not in failed] if failed else items
        self._done(block, task, TaskResult(worked, blob=blob), failed, since)

    def _answered(
        self, block: BlockRun, task: int, since: float, values: BlockValues, failed: Mapping[int, str]
    ) -> None:
        counters, done = self._progress.tasks[task], len(values) + len(failed)
        if done:
            self._engines.pace.item_rows[task] = max(
                counters.rows / (counters.succeeded + counters.failed + done), 0.01
            )
        # What rows hold is known by packing them, which a CPU task behind this one wants anyway.
        blob = pack_values(values) if values.columns is None else None
        result = TaskResult(values.items, blob=blob, values=values, nbytes=values.nbytes)
        self._done(block, task, result, failed, since)
        self._engines.pool.wake()

    def _done(self, block: BlockRun, task: int, result: TaskResult, failed: Mapping[int, str], since: float) -> None:
        if self._failure is not None:
            return
        counters = self._progress.tasks[task]
        counters.succeeded += len(result.items)
        counters.failed += len(failed)
        counters.latency(time.monotonic() - since, len(result.items))
        before = block.nbytes
        ready = block.done(task, result, failed)
        self._running_bytes += block.nbytes - before
        if block.finished:
            self._end(block)
        else:
            self._weigh()
            self._make_ready(block, ready)

    def _end(self, block: BlockRun) -> None:
        del self._blocks[block.first]
        self._ready.finish(block.first)
        self._running_items -= len(block)
        self._running_bytes -= block.nbytes
        self._window.finished(block.peak_bytes / len(block), len(block))
        self._engines.pace.need_bytes = self._window.need_bytes
        try:
            self._write(block)
        except Exception as failure:  # a fault of ours, too: the loop calls this, and the run would wait for ever
            self.fail(failure)
        self._weigh()
        self._changed.set()

    def _weigh(self) -> None:
        self._window.items = self._running_items + self._writer.waiting
        self._window.bytes = self._running_bytes + self._writer.waiting_bytes

    def _write(self, block: BlockRun) -> None:
        failures = {item: error for item in range(len(block)) if (error := block.error(item)) is not None}
        results = BlockResults(
            first=block.first, ids=block.ids, columns=self._columns(block, failures), failures=failures
        )
        self._writer.put(results)
        succeeded = len(block) - len(results.failures)
        self._progress.succeeded += succeeded
        self._limit.succeeded += succeeded
        for item, error in sorted(results.failures.items()):
            self._progress.item_failed(block.ids[item], *error)
            self._limit.failed += 1
            if (problem := self._limit.problem()) is not None:
                last = f"item {block.ids[item]}, task {error[0]}: {error[1]}"
                raise StepFailed("TooManyFailedItems", f"{problem}; the last one: {last}")

    def _columns(self, block: BlockRun, failures: dict[int, tuple[str, str]]) -> dict[str, BlockValues]:
        """What is passed on of the items, then the results of the sinks; a model's only output stands alone."""
        columns = self._passed_through(block, failures) if self._pass_through else {}
        for task, result in zip(self._dag.sinks, (result for _, result in block.results()), strict=True):
            model = self._dag.nodes[task].kind == "Model"
            columns[self._dag.nodes[task].name] = result.values.unwrapped() if model else result.values
        return columns

    def _passed_through(self, block: BlockRun, failures: dict[int, tuple[str, str]]) -> dict[str, BlockValues]:
        items = [item for item in block.payload.items if item not in failures]
        records = block.payload.data.only(items).rows
        found: dict[str, list[Any]] = {name: [] for name in self._pass_through}
        kept = []
        for item, record in zip(items, records, strict=True):
            missing = [name for name in self._pass_through if name not in record]
            if missing:
                failures[item] = (ITEM, f"the record has no field {missing[0]!r}, which output.passThrough names")
                continue
            kept.append(item)
            for name, values in found.items():
                values.append(record[name])
        return {name: BlockValues(kept, rows=values) for name, values in found.items()}
