"""Runtimes for the engine's tests: they take a + b*n of the loop's time, and fail when told to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from batchwright_worker.api import model as manifest_model
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.requests import Array, InferRequest
from batchwright_worker.inference.runtime import (
    BatchFailed,
    DeclaredSource,
    LoadReport,
    MemoryReport,
    OutOfMemory,
    RunResult,
    RuntimeBusy,
    RuntimeLost,
    TensorSpec,
    ignored,
)

X = TensorSpec(name="x", datatype="FP32", shape=(2,))
Y = TensorSpec(name="y", datatype="FP32", shape=(2,))
BAD = 666.0
"""A row with this value makes the whole batch raise."""
POISON = 999.0
"""A row with this value kills the runtime."""
BUSY = -503.5
"""With such a row the server behind the runtime has no time for the batch."""
HANG = -555.0
"""A row with this value never returns."""


@dataclass
class FakeDevice:
    """y = 10 x. One batch or load at a time (unless it `interleaves`), in virtual time; every run is in `runs` as
    (model, rows)."""

    fixed_s: float = 0.010
    per_row_s: float = 0.002
    total_bytes: int = 0
    bytes_per_row: int = 0
    load_s: float = 0.020
    load_bytes: int = 100
    kind: str = "cpu"
    device: str = "runtime-0"
    overlaps_loads: bool = False
    interleaves: bool = False
    """Several batches at once, and loads beside them."""
    depth: int = 1
    variable: bool = False
    most_rows: int = 1 << 30
    load_errors: list[Exception] = field(default_factory=list)
    runs: list[tuple[str, int]] = field(default_factory=list)
    resident: dict[str, int] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    up: bool = True
    violations: list[str] = field(default_factory=list)
    load_seconds: dict[str, float] = field(default_factory=dict)
    """By model, where a load takes something else than `load_s`; infinite: it hangs."""
    _working: int = 0
    _beside: bool = False
    """Did it do more than one thing when it died?"""
    _death: asyncio.Event = field(default_factory=asyncio.Event)
    _on_lost: Callable[[str], None] = print
    _on_back: Callable[[], None] = print
    _on_overdue: Callable[[str, str], None] = ignored

    def watch(
        self,
        on_lost: Callable[[str], None],
        on_back: Callable[[], None],
        on_overdue: Callable[[str, str], None] = ignored,
    ) -> None:
        self._on_lost, self._on_back, self._on_overdue = on_lost, on_back, on_overdue

    async def load(self, model: str, source: DeclaredSource, limit_s: float = math.inf) -> LoadReport:
        await self._work(self.load_seconds.get(model, self.load_s), model, limit_s)
        if self.load_errors:
            raise self.load_errors.pop(0)
        if self.total_bytes and sum(self.resident.values()) + self.load_bytes > self.total_bytes:
            raise OutOfMemory(f"{self.load_bytes} bytes do not fit")
        self.resident[model] = self.load_bytes
        self.loads.append(model)
        shape = (-1,) if self.variable else X.shape
        inputs = (TensorSpec(name="x", datatype="FP32", shape=shape),)
        return LoadReport(
            memory_bytes=self.load_bytes,
            bytes_per_row=self.bytes_per_row,
            seconds=self.load_s,
            inputs=inputs,
            outputs=(Y,),
        )

    async def unload(self, model: str, limit_s: float = math.inf) -> None:
        self._check_up()
        if self._working and not self.interleaves:
            self.violations.append(f"unload of {model} while busy")
        del self.resident[model]
        self.unloads.append(model)

    async def run(
        self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = math.inf
    ) -> RunResult:
        self._check_up()
        if model not in self.resident:
            self.violations.append(f"{model} ran while not resident")
        x = np.concatenate([part["x"] for part in parts])
        assert len(x) == rows
        seconds = self.fixed_s + self.per_row_s * rows
        self.runs.append((model, rows))
        if (x == POISON).any():
            asyncio.get_running_loop().call_later(seconds / 2, self.die)
        await self._work(math.inf if (x == HANG).any() else seconds, model, limit_s)
        if rows > self.most_rows:
            raise OutOfMemory(f"{rows} rows do not fit")
        if (x == BUSY).any():
            raise RuntimeBusy("the queue is full", retry_after_s=4.0)
        if (x == BAD).any():
            raise BatchFailed("a row is bad")
        return RunResult(outputs={"y": x * 10}, device_seconds=seconds, batch_bytes=rows * self.bytes_per_row)

    async def memory(self) -> MemoryReport:
        self._check_up()
        used = sum(self.resident.values())
        return MemoryReport(total_bytes=self.total_bytes, used_bytes=used, free_bytes=max(0, self.total_bytes - used))

    def die(self, back_after_s: float = 0.005) -> None:
        """The process is killed; an empty one takes its place."""
        if not self.up:
            return
        self.up, self._beside = False, self._working > 1
        self.resident.clear()
        self._death.set()
        self._death = asyncio.Event()
        self._on_lost("killed")
        asyncio.get_running_loop().call_later(back_after_s, self._come_back)

    def _come_back(self) -> None:
        self.up = True
        self._on_back()

    def _check_up(self) -> None:
        if not self.up:
            raise RuntimeLost("not there")

    async def _work(self, seconds: float, model: str, limit_s: float) -> None:
        self._check_up()
        if self._working and not self.interleaves:
            self.violations.append("two things at once")
        self._working, loop = self._working + 1, asyncio.get_running_loop()
        timers = []
        if limit_s < math.inf:
            timers.append(loop.call_later(limit_s / 2, self._on_overdue, model, "half of the limit has passed"))
            timers.append(loop.call_later(limit_s, self.die))
        began = loop.time()
        try:
            async with asyncio.timeout(None if seconds == math.inf else seconds):
                await self._death.wait()
        except TimeoutError:
            if seconds >= limit_s / 2:
                self._on_overdue(model, "")
            return
        finally:
            self._working -= 1
            for timer in timers:
                timer.cancel()
        overdue = loop.time() >= began + limit_s
        raise RuntimeLost("killed", overdue=overdue, beside=self._beside and not overdue)


def model(name: str = "m", **settings: Any) -> manifest_model.Model:
    """A model for FakeDevice; `latency` in ms, everything else is a field of `batching`."""
    latency = settings.pop("latency", None)
    throughput = settings.pop("throughput", None)
    return manifest_model.Model(
        name=name,
        artifacts=(manifest_model.Artifact(accelerator="cpu", format="python"),),
        targets=manifest_model.Targets(latency_milliseconds=latency, throughput=throughput),
        batching=manifest_model.Batching(**settings),
    )


def engine_of(models: Sequence[manifest_model.Model], *devices: FakeDevice, **options: Any) -> Engine:
    """An engine on the running (virtual) loop's clock."""
    clock = asyncio.get_running_loop().time
    return Engine(models, devices, clock=clock, wall=lambda: 1_000_000 + clock(), **options)


def request(engine: Engine, *values: float, model_name: str = "m", **fields: Any) -> InferRequest:
    """One row per value; the row is [value, row number]."""
    x = np.array([[value, row] for row, value in enumerate(values)], dtype=np.float32)
    return InferRequest(
        model=model_name, inputs={"x": x}, rows=len(values), arrival=fields.pop("arrival", engine.clock()), **fields
    )
