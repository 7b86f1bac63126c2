"""Loading and unloading on the runtimes: performs what the scheduler decided, warms up, learns footprints and speed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from batchwright_worker.api import model as manifest_model
from batchwright_worker.engine.counters import ModelCounters
from batchwright_worker.engine.signature import Signature
from batchwright_worker.inference.runtime import (
    BatchFailed,
    LoadReport,
    ModelSource,
    OutOfMemory,
    Runtime,
    RuntimeLost,
    TensorSpec,
)
from batchwright_worker.scheduler.dispatch import LoadModel
from batchwright_worker.scheduler.scheduler import Scheduler
from batchwright_worker.scheduler.served_model import ServedModel

WARM_UP_BUDGET_S = 1.0
"""The warm-up of a model tries sizes 1, 2, 4, ... until this much device time is spent."""
FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 60.0
MOST_CUTS = 5
"""After so many runtimes in a row that died while they loaded a model, it is the model's fault."""

_log = logging.getLogger(__name__)


class LoadFollower(Protocol):
    """Who is told of loads."""

    def loaded(self, model: str, *, first: bool) -> None:
        """A load is done, measured and, the first time, warmed up."""

    def load_failed(self, model: str, why: str, retry_after_s: float) -> None:
        """A load has failed for a reason that trying again at once does not mend."""


@dataclass(slots=True, kw_only=True)
class Loader:
    """One per engine; `follow` says who is told."""

    scheduler: Scheduler
    runtimes: Mapping[str, Runtime]
    models: Mapping[str, manifest_model.Model]
    counters: Mapping[str, ModelCounters]
    clock: Callable[[], float]
    _follower: LoadFollower | None = None
    _signatures: dict[str, Signature] = field(default_factory=dict)
    _warm: set[tuple[str, str]] = field(default_factory=set)
    """Model and device of every first load: later loads of the same are not warmed up again."""
    _failures: dict[str, int] = field(default_factory=dict)
    _cuts: dict[str, int] = field(default_factory=dict)
    """Per model how many runtimes in a row have died while they loaded it."""

    def follow(self, follower: LoadFollower) -> None:
        """Tell `follower` of every load that is done or has failed."""
        self._follower = follower

    def signature(self, model: str) -> Signature:
        """As the runtime reported it, before the first load as the manifest declares it."""
        known = self._signatures.get(model)
        return known if known is not None else _declared(self.models[model])

    async def load(self, load: LoadModel) -> None:
        """Carry out a load that is in the books already. Raises nothing but cancellation."""
        runtime, books = self.runtimes[load.device], self.scheduler.devices[load.device]
        epoch = books.epoch
        try:
            source = self._source(load.model, runtime.kind)
            # Asked for at once, in this order: the runtime does them without waiting for us in between.
            asks = [*(runtime.unload(victim) for victim in load.unload), runtime.load(load.model, source)]
            report = (await asyncio.gather(*asks))[-1]
            assert report is not None
            self._unloaded(load.unload)
            if books.epoch == epoch:
                await self._settle(load, report, epoch)
        except RuntimeLost as lost:
            self._cut_off(load, str(lost))
        except OutOfMemory as trouble:
            if books.epoch == epoch:
                self._too_large(load, str(trouble))
        except Exception as trouble:
            if not isinstance(trouble, BatchFailed):
                _log.exception("load of %s on %s", load.model, load.device)
            if books.epoch == epoch:
                self.scheduler.load_failed(load, self.clock())
                self._give_up(load, str(trouble) or type(trouble).__name__)

    async def unload(self, device: str, victims: tuple[str, ...]) -> None:
        """Give the memory of models back that the books have dropped already."""
        for victim in victims:
            await self.runtimes[device].unload(victim)
        self._unloaded(victims)

    def _unloaded(self, victims: tuple[str, ...]) -> None:
        for victim in victims:
            self.counters[victim].unloads += 1

    async def measure(self, device: str) -> None:
        """Bring the books in line with what the runtime measures."""
        self.scheduler.measured(device, await self.runtimes[device].memory())

    async def _settle(self, load: LoadModel, report: LoadReport, epoch: int) -> None:
        """The runtime holds the model: learn its signature, warm it up, enter it into the books (unless it was lost
        meanwhile)."""
        served = self.scheduler.models[load.model]
        books = self.scheduler.devices[load.device]
        first = load.model not in self._signatures
        self._signatures[load.model] = signature = _signature(self.models[load.model], report)
        if (load.model, load.device) not in self._warm and not books.timeline.running:
            await self._warm_up(served, signature, load.device, sizes=first)
            self._warm.add((load.model, load.device))
        if books.epoch != epoch:
            return
        self.scheduler.load_ended(load, report, self.clock())
        await self.measure(load.device)
        self.counters[load.model].loads.add(report.seconds)
        self._failures.pop(load.model, None)
        self._cuts.pop(load.model, None)
        if self._follower is not None:
            self._follower.loaded(load.model, first=first)

    async def _warm_up(self, served: ServedModel, signature: Signature, device: str, *, sizes: bool) -> None:
        """One real inference (what raises on well-known shapes fails the load); the first time also a few sizes, so
        that the fit and with it the first batch size and admission start from measurements."""
        if not signature.inputs:
            return
        try:
            await self.runtimes[device].run(served.name, [signature.warm_up(1)], 1)
        except BatchFailed as trouble:
            if signature.fixed:
                raise BatchFailed(f"its first inference, one row of zeros, failed: {trouble}") from trouble
            return
        if sizes and signature.fixed:
            await self._try_sizes(served, signature, device)

    async def _try_sizes(self, served: ServedModel, signature: Signature, device: str) -> None:
        spent, size, most = 0.0, 1, served.plan.rules.max_size
        while size <= most and spent < WARM_UP_BUDGET_S:
            try:
                result = await self.runtimes[device].run(served.name, [signature.warm_up(size)], size)
            except OutOfMemory:
                self.scheduler.out_of_memory(device, served.name, size)
                break
            except BatchFailed:
                break
            self.scheduler.tried(served.name, size, result.device_seconds, result.batch_bytes)
            spent += result.device_seconds
            size = most if size < most < 2 * size else 2 * size

    def _source(self, model: str, kind: str) -> ModelSource:
        spec = self.models[model]
        artifact = artifact_for(spec, kind)
        if artifact is None:
            raise BatchFailed(
                f"model {model} has no artifact for accelerator {kind}; add one to spec.models[].artifacts"
            )
        return ModelSource(artifact=artifact, inputs=_specs(spec.inputs), outputs=_specs(spec.outputs))

    def _too_large(self, load: LoadModel, why: str) -> None:
        """It did not fit; next time idle models make room, where there are some."""
        if not self.scheduler.did_not_fit(load, self.clock()):
            self._give_up(load, f"out of memory while loading onto {load.device}: {why}")

    def _cut_off(self, load: LoadModel, why: str) -> None:
        """The runtime died while it loaded: again on the next ones, then with back-off, so that the other models of the
        device are served meanwhile."""
        _log.warning("load of %s on %s was cut off: %s", load.model, load.device, why)
        count = self._cuts[load.model] = self._cuts.get(load.model, 0) + 1
        if count >= MOST_CUTS:
            self.scheduler.load_kills(load.device, load.model)
            self._give_up(load, f"the runtime died {count} times in a row while it was loaded: {why}")

    def next_backoff_s(self, model: str) -> float:
        """Count one more failure in a row; how long to wait before the next try."""
        count = self._failures[model] = self._failures.get(model, 0) + 1
        return min(LAST_BACKOFF_S, FIRST_BACKOFF_S * float(2 ** min(count - 1, 10)))

    def _give_up(self, load: LoadModel, why: str) -> None:
        _log.warning("model %s cannot be loaded on %s: %s", load.model, load.device, why)
        if self._follower is not None and self.scheduler.nowhere(load.model):
            self._follower.load_failed(load.model, why, self.next_backoff_s(load.model))


def artifact_for(model: manifest_model.Model, kind: str) -> manifest_model.Artifact | None:
    """Method A2: the artifact of this kind of accelerator."""
    return next((one for one in model.artifacts if one.accelerator == kind), None)


def _signature(model: manifest_model.Model, report: LoadReport) -> Signature:
    """What the runtime reports, else what the manifest declares."""
    return Signature(
        model=model.name,
        inputs=report.inputs or _specs(model.inputs),
        outputs=report.outputs or _specs(model.outputs),
        padding=model.batching.padding,
    )


def _declared(model: manifest_model.Model) -> Signature:
    return Signature(
        model=model.name,
        inputs=_specs(model.inputs),
        outputs=_specs(model.outputs),
        padding=model.batching.padding,
    )


def _specs(tensors: tuple[manifest_model.Tensor, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=one.name, datatype=one.datatype, shape=one.shape) for one in tensors)
