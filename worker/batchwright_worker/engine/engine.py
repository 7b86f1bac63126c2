"""What the front ends call: callers on one side, runtimes on the other, the `Scheduler` between them.

Every caller gets exactly one answer: a result, an error of its own, or Stopping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

from batchwright_worker.api import deployment as manifest
from batchwright_worker.api import messages
from batchwright_worker.api import model as manifest_model
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.decision_loop import DecisionLoop
from batchwright_worker.engine.dispatcher import Dispatcher
from batchwright_worker.engine.lifecycle import ModelLifecycle
from batchwright_worker.engine.loader import Loader, artifact_for
from batchwright_worker.engine.pending import PendingRequest
from batchwright_worker.engine.state_publisher import StatePublisher
from batchwright_worker.engine.windows import Windows
from batchwright_worker.inference.errors import (
    DeadlineExceeded,
    InferenceError,
    ModelUnavailable,
    QueueFull,
    Refused,
    Stopping,
    UnknownModel,
)
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.inference.runtime import Runtime, TensorSpec
from batchwright_worker.scheduler.devices import DeviceConfig
from batchwright_worker.scheduler.order import Order
from batchwright_worker.scheduler.queues import Bucket
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ServedModel, plan_of
from batchwright_worker.scheduler.steps import QueueRequest, Refusal

UNLOADED = "unloaded by request"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """What the protocols tell of a model; shapes per row. `max_batch_size` is batching.maxSize."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int


class Engine:
    """One per sidecar. `clock` is the monotonic clock of requests, `wall` gives Unix seconds for the state; a
    `scheduler` that is given (one that records, say) has an order of its own.

    Use it from one event loop: `start`, then `infer` as often and as concurrently as you like, `drain`, `close`.
    `counters` holds the counters per model.
    """

    def __init__(
        self,
        models: Sequence[manifest_model.Model],
        runtimes: Sequence[Runtime],
        *,
        order: Order = "Balanced",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.clock = clock
        self.models: Mapping[str, manifest_model.Model] = {model.name: model for model in models}
        self.runtimes: Mapping[str, Runtime] = {runtime.device: runtime for runtime in runtimes}
        self.scheduler = scheduler or Scheduler(order=order)
        self.counters: dict[str, ModelCounters] = {model.name: ModelCounters() for model in models}
        self.publisher = StatePublisher(scheduler=self.scheduler, counters=self.counters, clock=clock, wall=wall)
        self.loader = Loader(
            scheduler=self.scheduler,
            runtimes=self.runtimes,
            models=self.models,
            counters=self.counters,
            clock=clock,
        )
        self.decisions = DecisionLoop()
        self.dispatcher = Dispatcher(
            scheduler=self.scheduler,
            runtimes=self.runtimes,
            loader=self.loader,
            publisher=self.publisher,
            decisions=self.decisions,
            counters=self.counters,
            clock=clock,
        )
        self.windows = Windows(
            scheduler=self.scheduler, publisher=self.publisher, decisions=self.decisions, clock=clock
        )
        self.lifecycle = ModelLifecycle(
            scheduler=self.scheduler,
            runtimes=self.runtimes,
            loader=self.loader,
            publisher=self.publisher,
            decisions=self.decisions,
            clock=clock,
            reject=self.dispatcher.reject,
        )
        self.decisions.decide = self.dispatcher.decide
        self.loader.follow(self.lifecycle)
        self._stopping = False
        self.interleaves = False
        """Layerwise: the runtimes run batches of several models at once."""

    @classmethod
    def for_deployment(
        cls, deployment: manifest.ModelDeployment, runtimes: Sequence[Runtime], scheduler: Scheduler | None = None
    ) -> Self:
        """From contract.DEPLOYMENT_FILE as parsed by `manifest.parse_deployment`."""
        engine = cls(deployment.spec.models, runtimes, order=deployment.spec.queue_order, scheduler=scheduler)
        engine.interleaves = deployment.spec.layerwise.mode != "Off"
        return engine

    # --- life ---

    async def start(self) -> None:
        """Load every model once (measured, warmed up); those that fit stay in memory. Returns when each has loaded
        or failed; what failed is tried again with back-off and shows in the state."""
        now = self.clock()
        for model in self.models.values():
            served = self.scheduler.add_model(plan_of(model, *self._expected_footprint(model)), now)
            self.publisher.add(model.name, served.tuning.size)
        for runtime in self.runtimes.values():
            device = DeviceConfig(
                name=runtime.device,
                kind=runtime.kind,
                overlaps_loads=runtime.overlaps_loads,
                depth=max(2, len(self.models)) if self.interleaves else runtime.depth,
                interleaves=self.interleaves,
            )
            self.scheduler.add_device(device, up=False)
            self.lifecycle.watch(runtime.device)
            await self.lifecycle.revive(runtime.device)
        for name in self.models:
            if why := await self.lifecycle.place(name):
                self.lifecycle.cannot_place(name, why)
        for name in self.models:
            await self.lifecycle.replicate(name)

    async def drain(self, deadline_s: float) -> None:
        """Take no more requests; wait until all are answered, at most `deadline_s`; answer the rest with Stopping."""
        if not self._stopping:
            self._stopping = True
            self.publisher.publish()
        if not self.dispatcher.tickets:
            return
        try:
            async with asyncio.timeout(deadline_s):
                await self.dispatcher.idle.wait()
        except TimeoutError:
            for pending in list(self.dispatcher.tickets.values()):
                self.dispatcher.fail(pending, Stopping("this replica is stopping; ask another one"), "Stopping")

    async def close(self) -> None:
        """Stop for good: requests still open are answered with Stopping, timers and tasks end."""
        await self.drain(0)
        self.dispatcher.close()
        self.windows.close()
        self.lifecycle.close()
        await self.decisions.close()

    # --- requests ---

    async def infer(self, request: InferRequest) -> InferResult:
        """The answer, or one of the errors of `values`. Cancel it, and its rows that have not started are skipped."""
        answer: asyncio.Future[InferResult] = asyncio.get_running_loop().create_future()
        pending = self.submit(request, partial(_settle, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancel(pending)
            raise

    def submit(self, request: InferRequest, done: Callable[[InferResult | InferenceError], None]) -> PendingRequest:
        """The same for callers without a task: `done` is called with the answer, later and exactly once, unless the
        caller `cancel`s before. Raises InferenceError for what is not even taken."""
        served = self._served(request.model)
        try:
            return self._accept(request, served, done)
        except InferenceError:
            self.counters[request.model].fail.add(self.clock() - request.arrival)
            raise

    def cancel(self, pending: PendingRequest) -> None:
        """Its caller has gone; rows that have not started are skipped."""
        self.dispatcher.cancel(pending)

    def expected_wait_ms(self, model: str) -> float:
        """The wait that a new row of this model would meet now (contract.HEADER_EXPECTED_WAIT)."""
        return self.scheduler.expected_wait_s(self._served(model).name, self.clock()) * 1e3

    def model_metadata(self, name: str) -> ModelMetadata:
        """Raises UnknownModel. Inputs and outputs are as the manifest declares them until the model was loaded once."""
        self._served(name)
        signature = self.loader.signature(name)
        return ModelMetadata(
            name=name,
            versions=("1",),
            platform=self._artifact_format(name),
            inputs=signature.inputs,
            outputs=signature.outputs,
            max_batch_size=self.models[name].batching.max_size,
        )

    # --- readiness, explicit load and unload, state ---

    def ready(self) -> bool:
        """Is every model ready that was not unloaded by request, and are we not stopping?"""
        return not self._stopping and self.publisher.ready

    def model_ready(self, name: str) -> bool:
        """Raises UnknownModel. A model that is not in memory but will be loaded when asked for is ready."""
        self._served(name)
        return self.publisher.views[name].state == "Ready" and self.publisher.any_device_up

    async def load(self, name: str) -> None:
        """Load it now (Triton's repository API). Raises UnknownModel, ModelUnavailable."""
        self._served(name)
        self.scheduler.let_in(name)
        if not self.scheduler.holders(name):
            self.publisher.set_state(name, "Loading")
        if why := await self.lifecycle.place(name):
            self.lifecycle.cannot_place(name, why)
            raise ModelUnavailable(f"model {name} cannot be loaded: {why}", retry_after_s=1.0)
        self.publisher.set_state(name, "Ready")

    async def unload(self, name: str) -> None:
        """Out of service at once (rows that wait are answered with UnknownModel), out of memory when the batches
        that run have ended. Raises UnknownModel."""
        self._served(name)
        keys = self.scheduler.block(name, UNLOADED, float("inf"))
        self.dispatcher.reject(keys, UnknownModel(f"model {name} was {UNLOADED}"))
        self.publisher.set_state(name, "Unloaded", UNLOADED)
        for device in self.scheduler.devices:
            await self.lifecycle.evict(device, name)

    def snapshot(self) -> messages.SidecarState:
        """The state as the operator reads it."""
        return self.publisher.snapshot("stopping" if self._stopping else "", ready=self.ready())

    async def wait_for_revision(self, after: int, timeout_s: float) -> messages.SidecarState:
        """The state as soon as its revision is above `after`, after `timeout_s` in any case."""
        await self.publisher.wait(after, timeout_s)
        return self.snapshot()

    # --- inside ---

    def _served(self, name: str) -> ServedModel:
        served = self.scheduler.models.get(name)
        if served is None:
            raise UnknownModel(f"there is no model '{name}' here; there are {sorted(self.models)}")
        return served

    def _accept(
        self, request: InferRequest, served: ServedModel, done: Callable[[InferResult | InferenceError], None]
    ) -> PendingRequest:
        """Check, admit, queue. Raises InferenceError."""
        now = self.clock()
        if self._stopping or served.blocked:
            self._check_open(served, now)
        inputs, bucket = self._prepared(request)
        self.windows.observe(served)
        key = self.scheduler.offer(
            QueueRequest(
                model=request.model,
                rows=request.rows,
                arrival=request.arrival,
                bucket=bucket,
                deadline=request.deadline,
                priority=request.priority,
            ),
            now,
        )
        if isinstance(key, Refusal):
            self.counters[served.name].refused[key.reason] += 1
            raise _error_of(key)
        pending = PendingRequest(request=request, inputs=inputs, bucket=bucket, done=done, rows_left=request.rows)
        self.dispatcher.admit(key, pending)
        return pending

    def _prepared(self, request: InferRequest) -> tuple[Mapping[str, Array], Bucket]:
        """The arrays as the model takes them, and their bucket; once per form where nothing has to be padded. Raises
        BadInput."""
        signature, form = self.loader.signature(request.model), request.form
        if form is not None and form.checked is signature:
            return request.inputs, form.bucket
        inputs, bucket = signature.prepare(request.inputs, request.rows, request.outputs)
        if form is not None and inputs is request.inputs:
            form.checked, form.bucket = signature, bucket
        return inputs, bucket

    def _check_open(self, served: ServedModel, now: float) -> None:
        refused = self.counters[served.name].refused
        if self._stopping:
            refused["Stopping"] += 1
            raise Stopping("this replica is stopping; ask another one")
        if served.blocked == UNLOADED:
            raise UnknownModel(f"model {served.name} was {UNLOADED}; load it first")
        if served.blocked and now < served.blocked_until:
            refused["Unavailable"] += 1
            wait = served.blocked_until - now
            raise ModelUnavailable(f"model {served.name} cannot be loaded: {served.blocked}", retry_after_s=wait)

    def _expected_footprint(self, model: manifest_model.Model) -> tuple[int, int]:
        """Bytes of a load and per row as far as the manifest says; 0 until measured otherwise, and where weights come
        and go within a budget of their own."""
        if self.interleaves:
            return (0, 0)
        kinds = {runtime.kind for runtime in self.runtimes.values()}
        artifacts = [one for kind in kinds if (one := artifact_for(model, kind)) is not None]
        emulated = next((one.emulated for one in artifacts if one.emulated is not None), None)
        return (0, 0) if emulated is None else (emulated.weights_bytes, emulated.bytes_per_row)

    def _artifact_format(self, name: str) -> str:
        kinds = [runtime.kind for runtime in self.runtimes.values()]
        artifact = next((one for kind in kinds if (one := artifact_for(self.models[name], kind)) is not None), None)
        return artifact.format if artifact is not None else self.models[name].artifacts[0].format


def _settle(future: asyncio.Future[InferResult], answer: InferResult | InferenceError) -> None:
    if future.done():
        return
    if isinstance(answer, InferResult):
        future.set_result(answer)
    else:
        future.set_exception(answer)


def _error_of(refusal: Refusal) -> InferenceError:
    match refusal.reason:
        case "Deadline":
            return DeadlineExceeded(refusal.message, retry_after_s=refusal.retry_after_s)
        case "QueueFull":
            return QueueFull(refusal.message, retry_after_s=refusal.retry_after_s)
        case "Unavailable":
            return ModelUnavailable(refusal.message, retry_after_s=refusal.retry_after_s)
        case "LatencyTarget":
            return Refused(refusal.message, retry_after_s=refusal.retry_after_s)
