"""Loads and unloads on the runtimes: performs what the scheduler decided, warms up, measures footprints and speed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from batchwright_worker.api.model import Artifact, Model, Tensor
from batchwright_worker.batching.samples import KINDS, SampleError, warm_up_rows
from batchwright_worker.engine.parts import EngineParts
from batchwright_worker.engine.signature import Signature
from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.runtime import (
    BatchFailed,
    BatchMode,
    BatchPlan,
    DeclaredSource,
    LoadRefused,
    LoadReport,
    OutOfMemory,
    Runtime,
    RuntimeLost,
    RuntimeTrouble,
    Sample,
    TensorSpec,
    WarmUpTensor,
    WrongOutputs,
)
from batchwright_worker.scheduler.dispatch import LoadModel
from batchwright_worker.scheduler.served_model import ServedModel
from batchwright_worker.texts import presentable, text_of

WARM_UP_BUDGET_S: Final = 1.0
"""The warm-up of a model tries sizes 1, 2, 4, ... until this much device time is spent: so admission is right and the
size predicted from the first request on."""
FIRST_BACKOFF_S: Final = 1.0
LAST_BACKOFF_S: Final = 60.0
HUNG_REST: Final = 10.0
"""Times of its limit that a model rests whose load hung, where there are others."""
REFUSED_REST_S: Final = 3600.0
"""Of a model that only another manifest or artifact helps: callers are refused at once instead of waiting for one try
after the other. Whoever asks for it by the repository API has it tried now."""
MOST_CUTS: Final = 5
"""After this many runtimes in a row that died while they loaded a model it is given up with back-off: else its
neighbours on the device are never served."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadDone:
    """A load is done and measured and, the first time, warmed up; `message`: what there is to say of the model."""

    first: bool
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGivenUp:
    """A load has failed, for a reason that trying again at once does not fix, and the model is on no device."""

    why: str
    retry_after_s: float


LoadResult = LoadDone | LoadGivenUp | None
"""None: the scheduler may decide on the next try at once, or other devices serve the model."""


@dataclass(slots=True)
class Loader:
    """One per engine."""

    engine: EngineParts
    on_signature: Callable[[str], None]
    """Called when the signature of a model becomes another one."""
    _plans: dict[tuple[str, str], BatchPlan] = field(default_factory=dict)
    """By model and kind of accelerator, as its first load has found them."""
    _declared: dict[str, Signature] = field(default_factory=dict)
    _digests: dict[str, dict[str, str]] = field(default_factory=dict)
    """Model -> kind of accelerator -> digest of what it was loaded from."""
    _warm: set[tuple[str, str]] = field(default_factory=set)
    """Model and device of every first load. Later loads of the same are not warmed up: that took 12 ms at every load
    (docs/measurements.md)."""
    _failures: dict[str, int] = field(default_factory=dict)
    _cuts: dict[str, int] = field(default_factory=dict)
    """Per model how many runtimes in a row have died while they loaded it."""
    _not_to_be_tried: set[str] = field(default_factory=set)
    """Models that, for all that is known, have killed their runtime as they were tried."""

    def known(self, model: str) -> Signature | None:
        """As the first load has found it, None before."""
        return self.engine.signatures.get(model)

    def signature(self, model: str) -> Signature:
        """As the first load has found it, before that as the manifest declares it."""
        known = self.engine.signatures.get(model) or self._declared.get(model)
        if known is None:
            known = self._declared[model] = _declared(self.engine.models[model])
        return known

    def digests(self, model: str) -> Mapping[str, str]:
        """By kind of accelerator, of what it was loaded from last; without those that cannot be told."""
        return self._digests.get(model, {})

    async def load(self, load: LoadModel) -> LoadResult:
        """Carry out a load that the scheduler has begun. Raises nothing but cancellation."""
        engine = self.engine
        runtime, device = engine.runtimes[load.device], engine.scheduler.devices[load.device]
        epoch = device.epoch
        try:
            source = self._source(load.model, runtime.kind)
            # Requested at once, in this order: the runtime does them without waiting for us in between.
            limit_s = engine.scheduler.models[load.model].load_limit_s()
            unloads = [asyncio.ensure_future(self._unload(runtime, victim)) for victim in load.unload]
            loading = asyncio.ensure_future(runtime.load(load.model, source, limit_s))
            # What became of the load says more than what became of the unloads before it.
            await asyncio.gather(*unloads, loading, return_exceptions=True)
            report = loading.result()
            self._count_unloads(load.unload)
            # What was begun before a loss concerns a process that is gone: its successor holds nothing.
            return await self._complete(load, report, epoch) if device.epoch == epoch else None
        except RuntimeLost as lost:
            # A user's own server is given up for one request and may go on with others: then nothing has told the
            # scheduler that this load has ended.
            if device.epoch == epoch and not device.down:
                engine.scheduler.load_failed(load, engine.clock())
            return self._cut_off(load, lost)
        except OutOfMemory as trouble:
            return await self._too_large(load, str(trouble)) if device.epoch == epoch else None
        except Exception as trouble:
            if not isinstance(trouble, BatchFailed):
                _LOG.exception("load of %s on %s", load.model, load.device)
            if device.epoch != epoch:
                return None
            engine.scheduler.load_failed(load, engine.clock())
            refused = isinstance(trouble, LoadRefused)
            return self._give_up(load, text_of(trouble) or type(trouble).__name__, refused=refused)

    async def unload(self, device: str, victims: tuple[str, ...]) -> None:
        """Give the memory of models back that the scheduler counts as unloaded already. Raises RuntimeTrouble."""
        for victim in victims:
            await self._unload(self.engine.runtimes[device], victim)
        self._count_unloads(victims)

    async def _unload(self, runtime: Runtime, victim: str) -> None:
        await runtime.unload(victim, self.engine.scheduler.models[victim].unload_limit_s())

    async def make_room(self, device: str, victims: tuple[str, ...]) -> None:
        """As `unload`, and report what is free then. Raises RuntimeTrouble."""
        await self.unload(device, victims)
        await self.measure(device)

    def _count_unloads(self, victims: tuple[str, ...]) -> None:
        for victim in victims:
            self.engine.counters[victim].unloads += 1

    async def measure(self, device: str) -> None:
        """Report the memory that the runtime measures to the scheduler. Raises RuntimeTrouble."""
        self.engine.scheduler.memory_measured(device, await self.engine.runtimes[device].memory())

    async def _complete(self, load: LoadModel, report: LoadReport, epoch: int) -> LoadResult:
        """The runtime holds the model: learn its signature, warm it up, report it to the scheduler (unless the device
        was lost meanwhile)."""
        scheduler = self.engine.scheduler
        device = scheduler.devices[load.device]
        first = load.model not in self.engine.signatures
        signature = self._learn(load, report)
        if (load.model, load.device) not in self._warm and not device.timeline.running:
            await self._warm_up(scheduler.models[load.model], signature, load.device, sizes=first)
            self._warm.add((load.model, load.device))
        if device.epoch != epoch:
            return None
        scheduler.load_ended(load, report, self.engine.clock())
        await self.measure(load.device)
        self.engine.counters[load.model].loads.add(report.seconds)
        self._failures.pop(load.model, None)
        self._cuts.pop(load.model, None)
        self._not_to_be_tried.discard(load.model)
        return LoadDone(first=first, message=self._message(report))

    def _learn(self, load: LoadModel, report: LoadReport) -> Signature:
        """What the load has found of the model: its signature, and whether its requests have rows."""
        kind = self.engine.runtimes[load.device].kind
        if report.plan is not None:
            self._plans[load.model, kind] = report.plan
        if report.digest:
            self._digests.setdefault(load.model, {})[kind] = report.digest
        signature, before = _signature(self.engine.models[load.model], report), self.signature(load.model)
        if load.model in self.engine.signatures and signature == before:
            return before
        self.engine.signatures[load.model] = signature
        if signature.whole:
            self.engine.scheduler.serve_whole(load.model)
        if signature != before:
            self.on_signature(load.model)
        return signature

    @staticmethod
    def _message(report: LoadReport) -> str:
        """What there is to say of a model that is ready."""
        plan = report.plan
        reason = plan.reason if plan is not None else ""
        if reason and plan is not None and plan.whole:
            reason = f"each request runs alone, whole: {reason}"
        return "; ".join(note for note in (reason, report.message) if note)

    async def _warm_up(self, served: ServedModel, signature: Signature, device: str, *, sizes: bool) -> None:
        """The first time a few sizes, so that the fit and with it the first batch size and admission start from
        measurements; on further devices one real inference."""
        plan = self._plan_of(served.name, device)
        warmup = self.engine.models[served.name].warmup
        if not signature.inputs or warmup.mode == "Skip" or (plan is not None and plan.sample is None):
            return
        known = signature.fixed or signature.padding is not None
        await self._try_sizes(served, signature, plan or _plain(signature), device, all_sizes=sizes and known)

    async def _try_sizes(
        self, served: ServedModel, signature: Signature, plan: BatchPlan, device: str, *, all_sizes: bool
    ) -> None:
        declared = warm_up_inputs(self.engine.models[served.name])
        spent, size, most = 0.0, 1, served.config.tuning.max_size if all_sizes else 1
        while size <= most and spent < WARM_UP_BUDGET_S:
            try:
                prepared = signature.prepare(warm_up_rows(plan, declared, size), ())
                limit_s = served.run_limit_s(prepared.bucket, size)
                result = await self.engine.runtimes[device].run(served.name, [prepared.inputs], size, limit_s)
            except OutOfMemory:
                self.engine.scheduler.out_of_memory(device, served.name, size)
                break
            except (BatchFailed, WrongOutputs, SampleError, BadInput):
                break
            if all_sizes:
                self.engine.scheduler.warm_up_ran(
                    served.name, size, result.device_seconds, result.batch_bytes, prepared.bucket
                )
            spent += result.device_seconds
            size = most if size < most < 2 * size else 2 * size

    def _plan_of(self, model: str, device: str) -> BatchPlan | None:
        return self._plans.get((model, self.engine.runtimes[device].kind))

    def _source(self, model: str, kind: str) -> DeclaredSource:
        spec = self.engine.models[model]
        artifact = artifact_for(spec, kind)
        if artifact is None:
            raise BatchFailed(
                f"model {model} has no artifact for accelerator {kind}; add one to spec.models[].artifacts"
            )
        return self._declared_source(spec, artifact, kind)

    def _declared_source(self, spec: Model, artifact: Artifact, kind: str) -> DeclaredSource:
        known = self.engine.signatures.get(spec.name)
        # Where another kind of accelerator serves it already, requests are counted as that one does.
        mode = spec.batching.mode if known is None else ("Whole" if known.whole else "Rows")
        return DeclaredSource(
            artifact=artifact,
            inputs=_specs(spec, spec.inputs),
            outputs=_specs(spec, spec.outputs),
            mode=spec.batching.mode if (spec.name, kind) in self._plans else mode,
            plan=self._plans.get((spec.name, kind)),
            untried=self._why_untried(spec),
            warmup=warm_up_inputs(spec),
            padding=spec.batching.padding.multiple if spec.batching.padding is not None else 0,
        )

    def _why_untried(self, spec: Model) -> str:
        if spec.warmup.mode == "Skip":
            return "warmup.mode is Skip"
        return "the runtime died when it was loaded and tried" if spec.name in self._not_to_be_tried else ""

    async def _too_large(self, load: LoadModel, why: str) -> LoadResult:
        """It did not fit; next time idle models make room, where there are some: by the books, or, where these know of
        no bound, one after the other."""
        scheduler, now = self.engine.scheduler, self.engine.clock()
        if scheduler.load_did_not_fit(load, now):
            return None
        victim = scheduler.make_room(load.device, load.model, now)
        if victim is not None:
            with contextlib.suppress(RuntimeTrouble):
                await self.make_room(load.device, (victim,))
            return None
        return self._give_up(load, f"out of memory while loading onto {load.device}: {why}")

    def _cut_off(self, load: LoadModel, lost: RuntimeLost) -> LoadResult:
        """The runtime died while it loaded: again on the next ones, then with back-off, so that the other models of the
        device are served meanwhile."""
        why = str(lost)
        _LOG.warning("load of %s on %s was cut off: %s", load.model, load.device, why)
        if not lost.begun:
            return None
        if lost.overdue:
            return self._hung(load, why)
        count = self._cuts[load.model] = self._cuts.get(load.model, 0) + 1
        # Once beside batches of others it may have been one of them.
        if count > 1 or not lost.beside:
            self._not_to_be_tried.add(load.model)
        if count < MOST_CUTS:
            return None
        self.engine.scheduler.load_killed_runtime(load.device, load.model)
        return self._give_up(load, f"the runtime died {count} times in a row while it was loaded: {why}")

    def _hung(self, load: LoadModel, why: str) -> LoadResult:
        """Loading it, or its warm-up, has stopped the device for the whole of its limit. Not tried elsewhere (it is no
        fault of the device), and not soon: the other models are to have the device for most of the time."""
        self.engine.counters[load.model].hung += 1
        why = f"{presentable(why)}; it hangs, or limits.loadMilliseconds (limits.runMilliseconds) is too short for it"
        if load.model not in self.engine.signatures and self.engine.models[load.model].warmup.mode != "Skip":
            why += ". Its first load finds out by trying which dimension is the batch; warmup.mode: Skip does without"
        _LOG.error("model %s cannot be loaded: %s", load.model, why)
        limit_s = self.engine.scheduler.models[load.model].load_limit_s()
        rest_s = HUNG_REST * limit_s if len(self.engine.models) > 1 else 0.0
        return LoadGivenUp(why=why, retry_after_s=max(rest_s, self.next_backoff_s(load.model)))

    def next_backoff_s(self, model: str) -> float:
        """Count one more failure in a row; how long to wait before the next try."""
        count = self._failures[model] = self._failures.get(model, 0) + 1
        return min(LAST_BACKOFF_S, FIRST_BACKOFF_S * float(2 ** min(count - 1, 10)))

    def _give_up(self, load: LoadModel, why: str, *, refused: bool = False) -> LoadResult:
        why = presentable(why)
        _LOG.warning("model %s cannot be loaded on %s: %s", load.model, load.device, why)
        if not self.engine.scheduler.blocked_everywhere(load.model):
            return None
        if refused:
            return LoadGivenUp(why=why, retry_after_s=REFUSED_REST_S)
        return LoadGivenUp(why=why, retry_after_s=self.next_backoff_s(load.model))


def artifact_for(model: Model, kind: str) -> Artifact | None:
    """Method A2: the artifact of this kind of accelerator."""
    return next((one for one in model.artifacts if one.accelerator == kind), None)


def expected_footprint(model: Model, kinds: Collection[str]) -> tuple[int, int]:
    """Bytes of a load and per row as far as the manifest declares them; 0 until measured otherwise."""
    artifacts = [one for kind in kinds if (one := artifact_for(model, kind)) is not None]
    emulated = next((one.emulated for one in artifacts if one.emulated is not None), None)
    return (0, 0) if emulated is None else (emulated.weights_bytes, emulated.bytes_per_row)


def warm_up_inputs(model: Model) -> tuple[WarmUpTensor, ...]:
    """The warm-up's inputs that the manifest declares."""
    return tuple(WarmUpTensor(name=one.name, shape=one.shape, data=one.data) for one in model.warmup.inputs)


def _signature(model: Model, report: LoadReport) -> Signature:
    """What the runtime reports, else what the manifest declares."""
    return Signature(
        model=model.name,
        inputs=report.inputs or _specs(model, model.inputs),
        outputs=report.outputs or _specs(model, model.outputs),
        padding=model.batching.padding,
        whole=report.plan.whole if report.plan is not None else model.batching.mode == "Whole",
    )


def _declared(model: Model) -> Signature:
    return Signature(
        model=model.name,
        inputs=_specs(model, model.inputs),
        outputs=_specs(model, model.outputs),
        padding=model.batching.padding,
        whole=model.batching.mode == "Whole",
    )


def _plain(signature: Signature) -> BatchPlan:
    mode: BatchMode = "Whole" if signature.whole else "Rows"
    sample = Sample(kind=KINDS[0], size=signature.padding.multiple) if signature.padding is not None else None
    return BatchPlan(mode=mode, inputs=signature.inputs, outputs=signature.outputs, sample=sample)


def _specs(model: Model, tensors: tuple[Tensor, ...]) -> tuple[TensorSpec, ...]:
    """As declared; with mode Whole all shapes are whole ones."""
    rows = model.batching.mode != "Whole"
    return tuple(
        TensorSpec(name=one.name, datatype=one.datatype, shape=one.shape, batched=one.batched and rows)
        for one in tensors
    )
