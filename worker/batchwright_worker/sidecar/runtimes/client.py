"""The client of one runtime process: requests over the unix socket, tensors through slots, death noticed at once.

`RuntimeClient` is the engine's `Runtime` (inference/runtime.py). A closed connection is the runtime's death: every
request in flight raises RuntimeLost, `on_lost` fires, and the client connects again until a new process answers; then
`on_back` fires. The supervisor in the runtime's container keeps the socket, so that connecting waits and does not fail
while a new process starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import (
    DeclaredSource,
    LoadRefused,
    LoadReport,
    MemoryReport,
    NoSharedMemory,
    PromptRuntime,
    RunResult,
    RuntimeLost,
    StreamCounters,
    StreamedModel,
    ignored,
)
from batchwright_worker.ipc.messages import (
    Hello,
    Load,
    Loaded,
    Placed,
    Ran,
    Run,
    RuntimeRequest,
    RuntimeResponse,
    Unload,
    Unloaded,
    Welcome,
)
from batchwright_worker.ipc.slots import Slot, SlotPool, SlotsFullError
from batchwright_worker.ipc.supervision import end_runtime
from batchwright_worker.ipc.tensors import columns_size, taken, write_columns
from batchwright_worker.sidecar.runtimes.connection import ConnectionLostError, RuntimeConnection
from batchwright_worker.sidecar.runtimes.errors import expect
from batchwright_worker.sidecar.runtimes.open_calls import OpenCall
from batchwright_worker.sidecar.runtimes.sources import Paths, resolved

_LOG = logging.getLogger(__name__)
_WELCOME_S: Final = 30.0
"""A process that does not greet its sidecar for so long, though it serves, hangs. One that still imports its libraries
is left alone (`ipc/supervision`)."""
_PAUSES_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
Response = TypeVar("Response")


class RuntimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which runtime, and how much shared memory its batches may take."""

    kind: str
    device: str
    socket: Path
    slots: Path
    slots_limit_bytes: int
    paths: Paths
    overlaps_loads: bool = False
    interleaves: bool = False
    """Layerwise: it works on several batches at once."""
    refused: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Per model why it is not to be loaded."""


class RuntimeClient(PromptRuntime):
    """See the module. `start` returns at once; the runtime is usable from the first `on_back` on."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._pool = SlotPool(settings.slots, settings.slots_limit_bytes)
        self._connection: RuntimeConnection | None = None
        self._on_lost: Callable[[str], None] = lambda _why: None
        self._on_back: Callable[[], None] = lambda: None
        self._on_overdue: Callable[[str, str], None] = ignored
        self._keeper: asyncio.Task[None] | None = None
        self.silent_since: float | None = None
        """Since when (monotonic) there is no process any more that answers; None while there is, or was none yet."""
        self._total_bytes = 0
        self._used_bytes = 0
        self._ever_connected = asyncio.Event()
        self._whole: dict[str, frozenset[str]] = {}
        """Per model the inputs that are not batched."""
        self.pid = 0
        self.streams: StreamCounters | None = None
        """Layerwise: the counters of both engines as of the last batch."""
        self.streamed: dict[str, StreamedModel] = {}
        """Layerwise: how each loaded model was cut."""

    @property
    def kind(self) -> str:
        """Accelerator kind."""
        return self._settings.kind

    @property
    def device(self) -> str:
        """Name, unique in the pod."""
        return self._settings.device

    @property
    def overlaps_loads(self) -> bool:
        """May a load run while a batch does?"""
        return self._settings.overlaps_loads

    @property
    def depth(self) -> int:
        """How many batches it may be given at a time: the second waits in the socket while the first one runs."""
        return 2

    @property
    def connected(self) -> bool:
        """Is there a runtime process at the other end?"""
        return self._connection is not None

    def watch(
        self,
        on_lost: Callable[[str], None],
        on_back: Callable[[], None],
        on_overdue: Callable[[str, str], None] = ignored,
    ) -> None:
        """See `Runtime.watch`."""
        self._on_lost, self._on_back, self._on_overdue = on_lost, on_back, on_overdue

    def start(self) -> None:
        """Connect, and connect again whenever the runtime dies, until `close`."""
        self._keeper = asyncio.create_task(self._keep_connected(), name=f"runtime {self.device}")

    async def close(self) -> None:
        """Close the connection and remove all slots."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._connection is not None:
            self._connection.close()
        self._pool.close()

    async def load(self, model: str, source: DeclaredSource, limit_s: float = math.inf) -> LoadReport:
        """See `Runtime.load`. Raises RuntimeLost, OutOfMemory, BatchFailed."""
        if why := self._settings.refused.get(model):
            raise LoadRefused(why)
        resolved_source = resolved(model, source, self._settings.paths)
        beside = self.overlaps_loads
        loaded = await self._request(
            lambda call: Load(
                call=call,
                source=resolved_source,
                plan=source.plan,
                untried=source.untried,
                beside_batches=beside,
            ),
            Loaded,
            "load",
            model,
            limit_s,
            in_order=not beside,
        )
        self._whole[model] = frozenset() if loaded.plan is None else loaded.plan.unbatched_inputs
        self._used_bytes = loaded.memory_used_bytes
        if loaded.streamed is not None:
            self.streamed[model] = loaded.streamed
        return LoadReport(
            memory_bytes=loaded.memory_bytes,
            bytes_per_row=loaded.warmup_bytes,
            seconds=loaded.seconds,
            inputs=tuple(loaded.inputs),
            outputs=tuple(loaded.outputs),
            plan=loaded.plan,
            message=loaded.message,
            digest=loaded.digest,
        )

    async def unload(self, model: str, limit_s: float = math.inf) -> None:
        """See `Runtime.unload`."""
        unloaded = await self._request(lambda call: Unload(call=call, model=model), Unloaded, "unload", model, limit_s)
        self._used_bytes = unloaded.memory_used_bytes

    async def run(
        self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = math.inf
    ) -> RunResult:
        """See `Runtime.run`."""
        ended: asyncio.Future[RunResult] = asyncio.get_running_loop().create_future()
        self.begin(model, parts, rows, partial(_settle, ended), limit_s)
        return await ended

    def begin(
        self,
        model: str,
        parts: Sequence[Mapping[str, Array]],
        rows: int,
        ended: Callable[[RunResult | Exception], None],
        limit_s: float = math.inf,
    ) -> None:
        """See `PromptRuntime`. Several batches may be in flight, their responses come in order. A batch keeps its slot
        until the runtime has responded."""
        try:
            connection, began = self._connected(), time.perf_counter()
            slot, placed, end = self._filled(parts, self._whole.get(model))
        except Exception as trouble:
            ended(trouble)
            return
        input_s = time.perf_counter() - began
        connection.send(
            lambda call: Run(call=call, model=model, rows=rows, slot=slot.name, inputs=placed, offset_free=end),
            OpenCall(
                partial(self._ran, slot, input_s, ended), "batch", model, rows, limit_s, not self._settings.interleaves
            ),
        )

    def _filled(
        self, parts: Sequence[Mapping[str, Array]], whole: Collection[str] | None
    ) -> tuple[Slot, list[Placed], int]:
        columns = {name: [part[name] for part in parts] for name in parts[0]}
        for name in whole or ():
            del columns[name][1:]
        size = columns_size(columns)
        slot = self._acquire(size)
        try:
            return slot, write_columns(slot.view, columns), size
        except BaseException:
            self._pool.release(slot)
            raise

    async def memory(self) -> MemoryReport:
        """As of the last response that reported it. Raises RuntimeLost while there is no process."""
        self._connected()
        return self._memory()

    async def first_connected(self) -> None:
        """Returns once there has been a process at the other end."""
        await self._ever_connected.wait()

    def _ran(
        self,
        slot: Slot,
        input_s: float,
        ended: Callable[[RunResult | Exception], None],
        response: RuntimeResponse | ConnectionLostError,
    ) -> None:
        if isinstance(response, ConnectionLostError):
            # Not back to the pool: a dying process may still be writing its outputs there.
            self._pool.discard(slot)
            ended(_lost(response))
            return
        result: RunResult | Exception
        try:
            result = self._result(expect(response, Ran), slot, input_s)
        except Exception as trouble:
            result = trouble
        self._pool.release(slot)
        ended(result)

    def _result(self, ran: Ran, slot: Slot, input_s: float) -> RunResult:
        """Outputs are copied out of the slot, once for the whole batch, so that it is free for the next."""
        began = time.perf_counter()
        if ran.slot_bytes > slot.size:
            self._pool.adopt_growth(slot, ran.slot_bytes)
        outputs = {placed.name: taken(slot.view, placed) for placed in ran.outputs}
        memory = None
        if ran.memory_used_bytes >= 0:
            self._used_bytes = ran.memory_used_bytes
            memory = self._memory()
        self.streams = ran.streams or self.streams
        return RunResult(
            outputs=outputs,
            device_seconds=ran.device_seconds,
            memory=memory,
            batch_bytes=max(0, ran.batch_bytes),
            retained_bytes=ran.retained_bytes,
            row_errors=ran.row_errors,
            input_s=input_s + ran.input_seconds,
            output_s=time.perf_counter() - began + ran.output_seconds,
        )

    def _acquire(self, size: int) -> Slot:
        try:
            return self._pool.acquire(size)
        except SlotsFullError as error:
            raise NoSharedMemory(str(error)) from error

    def _memory(self) -> MemoryReport:
        total = self._total_bytes
        return MemoryReport(
            total_bytes=total, used_bytes=self._used_bytes, free_bytes=max(0, total - self._used_bytes) if total else 0
        )

    def _connected(self) -> RuntimeConnection:
        if self._connection is None:
            raise RuntimeLost(f"{self.device} is starting", begun=False)
        return self._connection

    async def _request(
        self,
        make: Callable[[int], RuntimeRequest],
        wanted: type[Response],
        kind: str,
        model: str,
        limit_s: float,
        *,
        in_order: bool = True,
    ) -> Response:
        requested = self._connected().request(make, kind, model, limit_s=limit_s, in_order=in_order)
        try:
            # Shielded: a caller that gives up must not cancel the future that the connection will complete.
            return expect(await asyncio.shield(requested), wanted)
        except ConnectionLostError as error:
            raise _lost(error) from error

    async def _keep_connected(self) -> None:
        while True:
            connection = await self._connect()
            self._connection = connection
            connection.on_overdue, connection.on_limit = self._overdue, self._beyond_limit
            _LOG.info("%s: runtime process %d is connected", self.device, self.pid)
            self._ever_connected.set()
            self.silent_since = None
            self._on_back()
            why = await connection.closed
            self._connection = None
            self.silent_since = time.monotonic()
            _LOG.warning("%s: runtime process %d is gone: %s", self.device, self.pid, why)
            self._on_lost(why)

    def _overdue(self, call: OpenCall, why: str) -> None:
        _LOG.warning("%s: %s", self.device, why or f"{call.what} has ended after all")
        self._on_overdue(call.model, why)

    def _beyond_limit(self, _call: OpenCall, why: str) -> None:
        _LOG.error("%s: %s; its process %d is ended", self.device, why, self.pid)
        self._end_process(self.pid, why)

    def _end_process(self, pid: int, why: str) -> None:
        try:
            end_runtime(self._settings.socket, pid, why)
        except OSError as error:
            _LOG.error("%s: its supervisor cannot be reached: %s", self.device, error)

    async def _connect(self) -> RuntimeConnection:
        attempt = 0
        while True:
            with contextlib.suppress(OSError, ConnectionLostError):
                return await self._welcomed(await RuntimeConnection.open(self._settings.socket))
            await asyncio.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1

    async def _welcomed(self, connection: RuntimeConnection) -> RuntimeConnection:
        session, slots = secrets.token_hex(8), str(self._settings.slots)
        # A process that still works on what its former sidecar asked for answers when that has ended, if it does.
        connection.on_limit = lambda _call, why: self._end_process(0, why)
        try:
            response = await connection.request(
                lambda call: Hello(call=call, session=session, slots=slots), "greeting", limit_s=_WELCOME_S
            )
            welcome = expect(response, Welcome)
        except BaseException:
            connection.close()
            raise
        self.pid = welcome.pid
        self._total_bytes, self._used_bytes = welcome.memory_bytes, welcome.memory_used_bytes
        return connection


def _lost(error: ConnectionLostError) -> RuntimeLost:
    return RuntimeLost(str(error), begun=error.begun, overdue=error.overdue, beside=error.beside)


def _settle(future: asyncio.Future[RunResult], result: RunResult | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
