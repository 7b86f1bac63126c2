"""The external server (protocol: open-inference): the user's own server is the runtime, the sidecar batches for it.

`ExternalServer` is the engine's `Runtime` (inference/runtime.py), as `RuntimeClient` is for our own runtimes. The
server's death shows on a connection that is kept open for that, or under a batch. What its models hold is not known
here (another container), so that nothing is evicted for memory; models come and go by the server's repository API
where it has one, else they must be ready by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from batchwright_worker.batching.answers import conformed, named
from batchwright_worker.batching.calls import joined, pieces
from batchwright_worker.batching.questions import ContradictionError, explained, question_of, without_trials
from batchwright_worker.batching.trials import Outcome, Question, TrialCall, find_plan
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import (
    BatchFailed,
    BatchPlan,
    DeclaredSource,
    LoadReport,
    MemoryReport,
    OutOfMemory,
    RunResult,
    RuntimeBusy,
    RuntimeLost,
    RuntimeTrouble,
    TensorSpec,
    WrongOutputs,
    ignored,
)
from batchwright_worker.sidecar.runtimes.external.grpc import ExternalServerGrpc
from batchwright_worker.sidecar.runtimes.external.http import ExternalServerHttp, ServerGoneError
from batchwright_worker.sidecar.runtimes.external.wire import Columns, ServerRefusedError, specs_of
from batchwright_worker.sidecar.runtimes.open_calls import WARNING_SHARE

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_PAUSES_S: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_LOAD_S: Final = 120.0
"""How long a server that is still starting may take until a model of its own accord is ready."""
_BUSY_S: Final = 1.0
"""What callers are told where a busy server does not say when to come again."""
_SHORT_WATCH_S: Final = 1.0
"""The least time between two health checks of a server that closes idle connections sooner than this."""


class ExternalServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The server's addresses: `url` HTTP, `grpc` HOST:PORT or empty (then batches travel by HTTP too)."""

    kind: str
    device: str
    url: str
    grpc: str = ""


class ExternalServer:
    """See the module. `start` returns at once; usable from the first `on_back` on."""

    def __init__(self, settings: ExternalServerSettings) -> None:
        self._settings = settings
        self._http = ExternalServerHttp(settings.url)
        self._grpc = ExternalServerGrpc(settings.grpc) if settings.grpc else None
        self._on_lost: Callable[[str], None] = lambda _why: None
        self._on_back: Callable[[], None] = lambda: None
        self._on_overdue: Callable[[str, str], None] = ignored
        self._keeper: asyncio.Task[None] | None = None
        self.silent_since: float | None = None
        """Since when (monotonic) it has not answered a call, or is gone; None while it answers, or was never there."""
        self._live = False
        self._down = asyncio.Event()
        self._ever_up = asyncio.Event()
        self._loaded: set[str] = set()
        self._plans: dict[str, BatchPlan] = {}
        self._last_end = 0.0

    @property
    def kind(self) -> str:
        """Accelerator kind."""
        return self._settings.kind

    @property
    def device(self) -> str:
        """Name, unique in the pod."""
        return self._settings.device

    @property
    def depth(self) -> int:
        """See `Runtime.depth`."""
        return 1

    @property
    def overlaps_loads(self) -> bool:
        """May a load run while a batch does? Not relied upon."""
        return False

    def watch(
        self,
        on_lost: Callable[[str], None],
        on_back: Callable[[], None],
        on_overdue: Callable[[str, str], None] = ignored,
    ) -> None:
        """See `Runtime.watch`."""
        self._on_overdue = on_overdue
        self._on_lost, self._on_back = on_lost, on_back

    def start(self) -> None:
        """Wait for the server, and again whenever it dies, until `close`."""
        self._keeper = asyncio.create_task(self._keep_watch(), name=f"server {self.device}")

    async def first_connected(self) -> None:
        """Returns once the server has been alive."""
        await self._ever_up.wait()

    async def close(self) -> None:
        """Close all connections; the server is left alone."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._http.close()
        if self._grpc is not None:
            await self._grpc.close()

    async def load(self, model: str, source: DeclaredSource, limit_s: float = math.inf) -> LoadReport:
        """Ready already, or made so by the repository API, or waited for while the server starts. Raises RuntimeLost,
        OutOfMemory, BatchFailed."""
        self._check_up()
        begin = time.monotonic()
        try:
            async with self._limited(model, f"the load of model {model}", limit_s):
                await self._make_ready(model)
                tensors = specs_of(await self._http.metadata(model))
                plan = source.plan or await self._settled(model, source, *tensors)
        except ServerGoneError as gone:
            raise await self._lost_under(gone) from gone
        except ServerRefusedError as refusal:
            raise BatchFailed(f"{self._http.url} has no metadata of model {model!r}: {refusal}") from refusal
        self._loaded.add(model)
        self._plans[model] = plan
        return LoadReport(
            memory_bytes=0,
            bytes_per_row=0,
            seconds=time.monotonic() - begin,
            inputs=plan.inputs,
            outputs=plan.outputs,
            plan=plan,
        )

    async def _settled(
        self, model: str, source: DeclaredSource, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> BatchPlan:
        """Which dimension is the batch, found out by requests to the server. Raises BatchFailed for a manifest that the
        server contradicts."""
        why = source.untried
        if not (inputs or source.inputs) or not (outputs or source.outputs):
            why = why or "the server does not tell its inputs and outputs: write them into spec.models[]"
        try:
            with explained(model):
                question = question_of(model, inputs or source.inputs, outputs or source.outputs, source)
                return without_trials(question, why) if why else await self._tried(model, question)
        except ContradictionError as error:
            raise BatchFailed(str(error)) from error

    async def _tried(self, model: str, question: Question) -> BatchPlan:
        trials = find_plan(question)
        try:
            call = next(trials)
            while True:
                call = trials.send(await self._outcome(model, call, question))
        except StopIteration as end:
            plan: BatchPlan = end.value
            return plan

    async def _outcome(self, model: str, call: TrialCall, question: Question) -> Outcome:
        try:
            columns = {name: [array] for name, array in call.inputs.items()}
            return named(await self._infer(model, columns), question.whole.outputs)
        except ServerRefusedError as refusal:
            if refusal.busy:  # no word about the content
                why = f"the server at {self._http.url} has no room for the trials of model {model!r}: {refusal}"
                raise BatchFailed(why) from refusal
            return refusal
        except (BatchFailed, WrongOutputs) as error:
            return error

    async def _infer(self, model: str, columns: Columns) -> dict[str, Array]:
        return await self._unless_down((self._grpc or self._http).infer(model, columns))

    async def unload(self, model: str, limit_s: float = math.inf) -> None:
        """By the repository API; a server without one keeps the model, which is logged."""
        self._check_up()
        self._loaded.discard(model)
        try:
            async with self._limited(model, f"the unload of model {model}", limit_s):
                await self._http.unload(model)
        except ServerRefusedError as refusal:
            _LOG.warning("%s keeps model %s: %s", self._http.url, model, refusal)
        except ServerGoneError as gone:
            raise await self._lost_under(gone) from gone

    async def run(
        self, model: str, parts: Sequence[Mapping[str, Array]], rows: int, limit_s: float = math.inf
    ) -> RunResult:
        """One request per batch. Its device time is the time on the wire and in the server, from when the batch before
        it had ended."""
        self._check_up()
        begin = time.monotonic()
        try:
            async with self._limited(model, f"the batch of {rows} rows of model {model}", limit_s):
                outputs = await self._batch(model, parts, rows)
        except ServerGoneError as gone:
            raise await self._lost_under(gone) from gone
        except ServerRefusedError as refusal:
            raise self._trouble(refusal) from refusal
        end = time.monotonic()
        seconds = end - max(begin, self._last_end)
        self._last_end = end
        return RunResult(outputs=outputs, device_seconds=seconds, memory=_UNKNOWN)

    def _trouble(self, refusal: ServerRefusedError) -> RuntimeTrouble:
        if refusal.too_large:
            return OutOfMemory(str(refusal))
        if refusal.busy:
            why = f"the server at {self._http.url} turned it away ({refusal.status}): {refusal}"
            return RuntimeBusy(why, retry_after_s=_BUSY_S if refusal.retry_after_s is None else refusal.retry_after_s)
        return BatchFailed(str(refusal))

    async def _batch(self, model: str, parts: Sequence[Mapping[str, Array]], rows: int) -> dict[str, Array]:
        """Raises WrongOutputs."""
        plan = self._plans.get(model)
        columns = {name: [part[name] for part in parts] for name in parts[0]}
        if plan is None or not plan.outputs:  # the engine looks at the rows
            return await self._infer(model, columns)
        for name in plan.unbatched_inputs:
            del columns[name][1:]
        if plan.piece in (0, rows):
            return conformed(await self._infer(model, columns), plan.outputs, rows)
        inputs = {name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for name, arrays in columns.items()}
        answers = []
        for call in pieces(inputs, rows, plan.piece, plan.unbatched_inputs):
            answer = await self._infer(model, {name: [array] for name, array in call.items()})
            answers.append(conformed(answer, plan.outputs, plan.piece))
        return joined(plan, answers, rows)

    async def memory(self) -> MemoryReport:
        """Nothing is known of it. Raises RuntimeLost while the server is not there."""
        self._check_up()
        return _UNKNOWN

    @contextlib.asynccontextmanager
    async def _limited(self, model: str, what: str, limit_s: float) -> AsyncIterator[None]:
        """Raises RuntimeLost when the limit has passed: the call is given up (a server of the user's cannot be ended
        from here), and its health is looked at."""
        if limit_s == math.inf:
            yield
            return
        said: list[str] = []

        def say() -> None:
            said.append(f"{what} has taken {limit_s * WARNING_SHARE:g} s; it will be given up after {limit_s:g} s")
            _LOG.warning("%s: %s", self.device, said[0])
            self._on_overdue(model, said[0])

        saying = asyncio.get_running_loop().call_later(limit_s * WARNING_SHARE, say)
        try:
            async with asyncio.timeout(limit_s) as limit:
                yield
            self.silent_since = None
        except TimeoutError as error:
            if not limit.expired():
                raise
            why = f"{what} has taken longer than its limit of {limit_s:g} s at {self._http.url}"
            _LOG.error("%s: %s; the call is given up", self.device, why)
            self.silent_since = self.silent_since or time.monotonic()
            await self._check_health()
            raise RuntimeLost(why, overdue=True) from error
        finally:
            saying.cancel()
            if said:
                self._on_overdue(model, "")

    async def _unless_down(self, call: Coroutine[Any, Any, T]) -> T:
        """The call's result, or RuntimeLost as soon as the server is known to be gone."""
        calling, down = asyncio.ensure_future(call), asyncio.ensure_future(self._down.wait())
        try:
            await asyncio.wait((calling, down), return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise RuntimeLost(f"the server at {self._http.url} died during a batch")
            return calling.result()
        finally:
            for task in (calling, down):
                task.cancel()

    async def _make_ready(self, model: str) -> None:
        """Raises BatchFailed if the server cannot, or will not for _LOAD_S."""
        if await self._http.model_ready(model):
            return
        outcome = await self._request_load(model)
        end, attempt = time.monotonic() + _LOAD_S, 0
        while True:
            settled = time.monotonic() > end or await self._http.ready()
            if await self._http.model_ready(model):
                return
            if settled:
                raise BatchFailed(
                    f"the server at {self._http.url} has no model {model!r} that is ready ({outcome}); "
                    "put it into the server's repository under this name"
                )
            await _pause(attempt)
            attempt += 1

    async def _request_load(self, model: str) -> str:
        """The outcome, as a message. Raises OutOfMemory."""
        try:
            await self._http.load(model)
        except ServerRefusedError as refusal:
            if refusal.too_large:
                raise OutOfMemory(str(refusal)) from refusal
            return f"its repository API answered {refusal.status}: {refusal}"
        return "its repository API accepted the load"

    def _check_up(self) -> None:
        if not self._live:
            raise RuntimeLost(f"{self.device}: the server at {self._http.url} is starting")

    async def _lost_under(self, gone: ServerGoneError) -> RuntimeLost:
        """A connection broke during a request: find out whether the server is alive before anyone tries again."""
        await self._check_health()
        return RuntimeLost(str(gone))

    async def _keep_watch(self) -> None:
        while True:
            await self._until_live()
            _LOG.info("%s: the server at %s is there", self.device, self._http.url)
            self._live = True
            self._down.clear()
            self._ever_up.set()
            self._on_back()
            while self._live:
                await self._until_suspect()
                await self._check_health()

    async def _until_live(self) -> None:
        attempt = 0
        while True:
            with contextlib.suppress(ServerGoneError):
                if await self._http.live():
                    return
            await _pause(attempt)
            attempt += 1

    async def _until_suspect(self) -> None:
        """Until the server closes the idle connection, or a request has found it gone."""
        began = time.monotonic()
        watching = [asyncio.ensure_future(self._http.closed_by_server()), asyncio.ensure_future(self._down.wait())]
        try:
            await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        if self._live and await self._is_healthy() and (lasted := time.monotonic() - began) < _SHORT_WATCH_S:
            await asyncio.sleep(_SHORT_WATCH_S - lasted)

    async def _check_health(self) -> None:
        """Lost, if it does not answer or has forgotten a model (it was restarted)."""
        if self._live and not await self._is_healthy() and self._live:
            self._live = False
            self.silent_since = self.silent_since or time.monotonic()
            self._loaded.clear()
            why = f"the server at {self._http.url} does not answer, or has lost its models"
            _LOG.warning("%s: %s", self.device, why)
            self._on_lost(why)
            self._down.set()

    async def _is_healthy(self) -> bool:
        try:
            ready = [await self._http.model_ready(one, slow=True) for one in tuple(self._loaded)]
            return all(ready) and await self._http.live(slow=True)
        except ServerGoneError:
            return False


_UNKNOWN: Final = MemoryReport(total_bytes=0, used_bytes=0, free_bytes=0)


async def _pause(attempt: int) -> None:
    await asyncio.sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
