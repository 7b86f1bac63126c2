"""What the front ends call: callers on one side, runtimes on the other, the `Scheduler` between them.

Every caller gets exactly one answer: a result, an error of its own, or Stopping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from msgspec.structs import replace

from batchwright_worker.api.deployment import ModelDeployment
from batchwright_worker.api.messages import SidecarState
from batchwright_worker.api.model import Model
from batchwright_worker.engine import refusals
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.deadlines import DeadlineTimer
from batchwright_worker.engine.decision_loop import DecisionLoop
from batchwright_worker.engine.dispatcher import Dispatcher
from batchwright_worker.engine.lifecycle import ModelLifecycle
from batchwright_worker.engine.loader import Loader, artifact_for, expected_footprint
from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.engine.pending import PendingRequest, PendingRequests
from batchwright_worker.engine.reconfiguration import reconfigured
from batchwright_worker.engine.retries import Retries
from batchwright_worker.engine.signature import Prepared, Signature
from batchwright_worker.engine.state_publisher import StatePublisher
from batchwright_worker.engine.windows import Windows
from batchwright_worker.inference.errors import BadInput, InferenceError, ModelUnavailable, UnknownModel
from batchwright_worker.inference.requests import InferRequest, InferResult
from batchwright_worker.inference.runtime import Runtime, TensorSpec
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.queues import QueuedRequest
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ServedModel, config_of
from batchwright_worker.scheduler.steps import QueueRequest, Refusal

UNLOADED: Final = "unloaded by request"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What the protocols report of a model. `max_batch_size` is batching.maxSize, 0 for one that is served whole;
    `digests` by kind of accelerator, of what it was made of when it was loaded last."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    digests: Mapping[str, str]


LOST_GRACE_S: Final = 5.0
"""Layer by layer a lost process is followed by one that answers within this time: callers wait for it, and the replica
stays ready. One that takes longer is not ready until its models are loaded, as at its start."""


class Engine:
    """One per sidecar. `clock` is the monotonic clock of requests, `wall` gives Unix seconds for the state. Layerwise:
    `interleaves`, the runtimes run batches of several models at once.

    Use it from one event loop: `start`, then `infer` as often and as concurrently as you like, `drain`, `close`.
    `counters` are by model, `requests` are those that are not answered yet.
    """

    def __init__(
        self,
        models: Sequence[Model],
        runtimes: Sequence[Runtime],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        scheduler: Scheduler | None = None,
        interleaves: bool = False,
    ) -> None:
        self.clock = clock
        self.models = {model.name: model for model in models}
        self.runtimes: Mapping[str, Runtime] = {runtime.device: runtime for runtime in runtimes}
        self.scheduler = scheduler or Scheduler()
        self.counters: Mapping[str, ModelCounters] = {
            model.name: ModelCounters(version=model.served_version) for model in models
        }
        self.requests = PendingRequests(scheduler=self.scheduler, counters=self.counters, clock=clock)
        self._deadlines = DeadlineTimer(self.requests, clock)
        self.publisher = StatePublisher(scheduler=self.scheduler, counters=self.counters, clock=clock, wall=wall)
        # Decisions begin loads, and loads that end are events for the next decision: the loop is made first, and calls
        # back by a method of this object because its dispatcher is made last.
        self._decisions = DecisionLoop(self._decide, clock)
        self._parts = parts = EngineParts(
            models=self.models,
            runtimes=self.runtimes,
            scheduler=self.scheduler,
            counters=self.counters,
            publisher=self.publisher,
            requests=self.requests,
            decisions=self._decisions,
            signatures={},
            clock=clock,
            wall=wall,
        )
        self.windows = Windows(parts)
        self._loader = Loader(parts, self._accept_again)
        self._lifecycle = ModelLifecycle(parts, self._loader)
        self._dispatcher = Dispatcher(parts, self._lifecycle, Retries(parts))
        self.load_table: Sequence[tuple[int, float]] = ()
        """(batch size, images per second) as the benchmark measured this processor; to be given before `start`."""
        self._interleaves = interleaves
        self.publisher.lost_grace_s = LOST_GRACE_S if interleaves else 0.0
        self._stopping = False

    @classmethod
    def for_deployment(
        cls, deployment: ModelDeployment, runtimes: Sequence[Runtime], scheduler: Scheduler | None = None
    ) -> Self:
        """From names.DEPLOYMENT_FILE as parsed by `deployment.parse_deployment`. A `scheduler` that is given (one that
        records, say) has its orders already."""
        return cls(
            deployment.spec.models,
            runtimes,
            scheduler=scheduler or Scheduler(order=deployment.spec.queue_order, eviction=deployment.spec.evict),
            interleaves=interleaves(deployment),
        )

    def _decide(self) -> float | None:
        return self._dispatcher.decide()

    # --- life ---

    async def start(self) -> None:
        """Load every model once (measured, warmed up); those that fit stay in memory. Returns when each has loaded
        or failed; what failed is tried again with back-off and shows in the state."""
        now = self.clock()
        kinds = {runtime.kind for runtime in self.runtimes.values()}
        for model in self.models.values():
            # Layerwise: weights come and go within a budget of their own, so a model occupies nothing as a whole.
            footprint = (0, 0) if self._interleaves else expected_footprint(model, kinds)
            served = self.scheduler.add_model(config_of(model, *footprint, self.load_table), now)
            self.publisher.add(model.name, served.tuner.size)
        for runtime in self.runtimes.values():
            # Down until `restore` has measured it.
            self.scheduler.add_device(self._device(runtime), up=False)
            self._lifecycle.watch(runtime.device)
            await self._lifecycle.restore(runtime.device)
        # Every model once before any model twice.
        for name in self.models:
            if why := await self._lifecycle.place(name):
                self._lifecycle.cannot_place(name, why)
        for name in self.models:
            await self._lifecycle.replicate(name)

    def _device(self, runtime: Runtime) -> DeviceConfig:
        return DeviceConfig(
            name=runtime.device,
            kind=runtime.kind,
            overlaps_loads=runtime.overlaps_loads,
            depth=2 * len(self.models) if self._interleaves else runtime.depth,
            interleaves=self._interleaves,
        )

    async def drain(self, deadline_s: float) -> None:
        """Take no more requests; wait until all are answered, at most `deadline_s`; answer the rest with Stopping."""
        if not self._stopping:
            self._stopping = True
            self.publisher.publish()
        if not self.requests.by_key:
            return
        try:
            async with asyncio.timeout(deadline_s):
                await self.requests.idle.wait()
        except TimeoutError:
            for pending in list(self.requests.by_key.values()):
                self.requests.fail(pending, refusals.stopping(), "Stopping")

    async def close(self) -> None:
        """Stop permanently: requests still open are answered with Stopping, timers and tasks end."""
        # Callers first: they get their answers whatever the end of the tasks does. Tasks last: the timers of windows
        # and loads would start new ones.
        await self.drain(0)
        self._deadlines.close()
        self.windows.close()
        self._lifecycle.close()
        await self._decisions.close()

    # --- requests ---

    async def infer(self, request: InferRequest) -> InferResult:
        """The answer, or one of `inference.errors`. Cancel it, and its rows that have not started are skipped."""
        answer: asyncio.Future[InferResult] = asyncio.get_running_loop().create_future()
        pending = self.submit(request, partial(_settle, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancel(pending)
            raise

    def submit(self, request: InferRequest, done: Callable[[InferResult | InferenceError], None]) -> PendingRequest:
        """The same for callers without a task: `done` is called with the answer, later and exactly once, unless the
        request is cancelled before. Raises InferenceError for what is not even taken."""
        served = self.scheduler.models.get(request.model) or self._served(request.model)
        try:
            return self._accept(request, served, done)
        except InferenceError:
            self.counters[request.model].fail.add(self.clock() - request.arrival)
            raise

    def cancel(self, pending: PendingRequest) -> None:
        """Its caller has disconnected; rows that have not started are skipped."""
        self.requests.cancel(pending)

    def expected_wait_ms(self, model: str) -> float:
        """The wait that a new row of this model would meet now (names.HEADER_EXPECTED_WAIT)."""
        return self.scheduler.expected_wait_s(self._served(model).name, self.clock()) * 1e3

    def model_metadata(self, name: str) -> ModelMetadata:
        """Raises UnknownModel; ModelUnavailable before the first load, which finds out what it takes and whether its
        requests have rows: who had a guess would go by it for good."""
        served = self._served(name)
        signature = self._loader.known(name)
        if signature is None:
            raise refusals.not_known_yet(name, served.blocked, served.blocked_until - self.clock())
        return ModelMetadata(
            name=name,
            versions=("1",),
            platform=self._artifact_format(name),
            inputs=signature.inputs,
            outputs=signature.outputs,
            max_batch_size=0 if signature.whole else self.models[name].batching.max_size,
            digests=self._loader.digests(name),
        )

    # --- readiness, explicit load and unload, state ---

    def ready(self) -> bool:
        """Is the replica ready (`readiness`), and are we not stopping?"""
        return not self._stopping and self.publisher.ready

    def model_ready(self, name: str) -> bool:
        """Raises UnknownModel. A model that is not in memory but will be loaded when asked for is ready."""
        self._served(name)
        return self.publisher.views[name].state == "Ready" and self.publisher.any_device_up

    async def load(self, name: str) -> None:
        """Load it now (Triton's repository API), whether or not the caller stays. Raises UnknownModel,
        ModelUnavailable, Stopping."""
        self._served(name)
        await self._to_its_end(self._load(name))

    async def unload(self, name: str) -> None:
        """Out of service at once (rows that wait are answered with UnknownModel), out of memory when the batches
        that run have ended, whether or not the caller stays. Raises UnknownModel, Stopping."""
        self._served(name)
        await self._to_its_end(self._unload(name))

    async def _to_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        """A load or unload belongs to the engine: one that ended with its caller would leave the device claimed, and
        the scheduler's books half written."""
        task = self._decisions.spawn(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `close`; the caller is still there
                raise refusals.stopping() from None
            raise

    async def _load(self, name: str) -> None:
        self.scheduler.unblock(name)
        if not self.scheduler.holders(name):
            self.publisher.set_state(name, "Loading")
        if why := await self._lifecycle.place(name):
            if why == UNLOADED:
                raise UnknownModel(f"model {name} was {UNLOADED} while it was loaded; load it again")
            self._lifecycle.cannot_place(name, why)
            wait_s = max(0.0, self.scheduler.models[name].blocked_until - self.clock())
            raise ModelUnavailable(f"model {name} cannot be loaded: {why}", retry_after_s=wait_s)
        if self.publisher.views[name].state != "Ready":
            self.publisher.set_state(name, "Ready")

    async def _unload(self, name: str) -> None:
        keys = self.scheduler.block(name, UNLOADED, float("inf"))
        self.requests.reject(keys, UnknownModel(f"model {name} was {UNLOADED}"), "Unloaded")
        self.publisher.set_state(name, "Unloaded", UNLOADED)
        for device in self.scheduler.devices:
            await self._lifecycle.evict(device, name)

    def reconfigure(self, models: Iterable[Model]) -> None:
        """Take over these models' targets, limits and bounds of batches (names.LIVE_FIELDS), in which alone they differ
        from those served. What waits, runs or was learned stays; a batch that runs keeps its limit."""
        for model in models:
            if model != self.models[model.name]:
                self.models[model.name] = model
                reconfigured(self._parts, self.windows, model)
        self._decisions.wake()

    def snapshot(self) -> SidecarState:
        """The state as the operator reads it."""
        return self.publisher.snapshot("stopping" if self._stopping else "", ready=self.ready())

    async def wait_for_revision(self, after: int, timeout_s: float) -> SidecarState:
        """The state as soon as its revision is above `after`, after `timeout_s` in any case."""
        await self.publisher.wait(after, timeout_s)
        return self.snapshot()

    # --- inside ---

    def _served(self, name: str) -> ServedModel:
        served = self.scheduler.models.get(name)
        if served is None:
            raise UnknownModel(f"Request for unknown model: '{name}' is not found; there are {sorted(self.models)}")
        return served

    def _accept(
        self, request: InferRequest, served: ServedModel, done: Callable[[InferResult | InferenceError], None]
    ) -> PendingRequest:
        """Check, admit, queue. Raises InferenceError."""
        now = self.clock()
        if self._stopping or served.blocked:
            self._check_open(served, now)
        model = request.model
        signature = self._loader.signature(model)
        template = request.template
        if template is not None and template.checked is signature:
            inputs, rows, bucket = request.inputs, template.rows, template.bucket
        else:
            prepared = self._newly_prepared(signature, request)
            inputs, rows, bucket = prepared.inputs, prepared.rows, prepared.bucket
        if rows != request.rows:
            request = replace(request, rows=rows)
        if model not in self.windows.timers:
            self.windows.observe(served)
        key = self.scheduler.offer(
            QueueRequest(
                model=model,
                rows=rows,
                arrival=request.arrival,
                bucket=bucket,
                deadline=request.deadline,
                priority=request.priority,
            ),
            now,
        )
        if isinstance(key, Refusal):
            self.counters[model].refused[key.reason] += 1
            raise refusals.error_of(key)
        pending = PendingRequest(
            request=request, inputs=inputs, bucket=bucket, done=done, rows_left=rows, signature=signature, keys=[key]
        )
        self.requests.add(key, pending)
        if request.deadline is not None:
            self._deadlines.watch(pending, request.deadline)
        self._decisions.wake()
        return pending

    def _newly_prepared(self, signature: Signature, request: InferRequest) -> Prepared:
        """As `_prepared`. Raises InferenceError."""
        try:
            return self._prepared(signature, request)
        except BadInput as error:
            if self._loader.known(request.model) is None:
                # It does not fit what the manifest says, or nothing; the model itself may take it.
                raise refusals.not_known_yet(request.model) from error
            raise

    def _prepared(self, signature: Signature, request: InferRequest) -> Prepared:
        """As the model takes it; checked once per template where nothing has to be padded. Raises BadInput."""
        template = request.template
        prepared = signature.prepare(request.inputs, request.outputs)
        if template is not None and prepared.inputs is request.inputs and not signature.goes_by_values:
            template.checked, template.bucket, template.rows = signature, prepared.bucket, prepared.rows
        return prepared

    def _accept_again(self, name: str) -> None:
        """A model that has never run has told what it takes: what waits for it was accepted without that knowledge."""
        signature = self._loader.signature(name)
        waiting = {id(one): one for one in self.requests.by_key.values() if one.request.model == name}
        for pending in waiting.values():
            try:
                prepared = self._prepared(signature, pending.request)
            except InferenceError as error:
                self.requests.fail(pending, error)
                continue
            self.requests.withdraw(pending)
            request = pending.request = replace(pending.request, rows=prepared.rows)
            pending.inputs, pending.bucket, pending.signature = prepared.inputs, prepared.bucket, signature
            pending.rows_left = prepared.rows
            entry = QueuedRequest(
                key=0,
                rows=prepared.rows,
                arrival=request.arrival,
                bucket=prepared.bucket,
                priority=request.priority,
                drop_after=request.deadline,
            )
            self.requests.requeued(self.scheduler.requeue(entry, name), pending)

    def _check_open(self, served: ServedModel, now: float) -> None:
        refused = self.counters[served.name].refused
        if self._stopping:
            refused["Stopping"] += 1
            raise refusals.stopping()
        if served.blocked == UNLOADED:
            raise UnknownModel(f"model {served.name} was {UNLOADED}; load it first")
        if served.blocked and now < served.blocked_until:
            refused["Unavailable"] += 1
            wait = served.blocked_until - now
            raise ModelUnavailable(f"model {served.name} is not served now: {served.blocked}", retry_after_s=wait)

    def _artifact_format(self, name: str) -> str:
        kinds = [runtime.kind for runtime in self.runtimes.values()]
        artifact = next((one for kind in kinds if (one := artifact_for(self.models[name], kind)) is not None), None)
        return artifact.format if artifact is not None else self.models[name].artifacts[0].format


def interleaves(deployment: ModelDeployment) -> bool:
    """Do the runtimes of this deployment run batches of several models at once (layerwise)?"""
    return deployment.spec.layerwise.mode != "Off"


def _settle(future: asyncio.Future[InferResult], answer: InferResult | InferenceError) -> None:
    if future.done():
        return
    if isinstance(answer, InferResult):
        future.set_result(answer)
    else:
        future.set_exception(answer)
