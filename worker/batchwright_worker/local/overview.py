"""One process as an overview: what its sidecars say of models and devices, and how far its job is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from batchwright_worker.api.documents import Document
from batchwright_worker.api.messages import DeviceState, ModelState, SidecarState
from batchwright_worker.dashboard.overview import (
    ChangeView,
    DeploymentView,
    FailureView,
    Finding,
    JobView,
    Level,
    Overview,
    PodView,
    ProcessorView,
    ServedModelView,
    TaskView,
    worst,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedHere:
    """A deployment that this process serves; `state` is None until its sidecar has answered."""

    name: str
    kind: str
    url: str
    document: Document
    state: SidecarState | None = None

    @property
    def namespace(self) -> str:
        """As a cluster would have it."""
        return str(self.document["metadata"].get("namespace", "default"))

    @property
    def models(self) -> Sequence[ModelState]:
        """None of them is known until its sidecar has answered."""
        return () if self.state is None else self.state.models


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHere:
    """The job of this process; `shards_done` are indexes, `rate` items per second, times Unix seconds."""

    name: str
    namespace: str
    output: str
    total: int
    shards: int
    shards_done: Sequence[int] = ()
    succeeded: int = 0
    failed: int = 0
    rate: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    waiting_for: Sequence[str] = ()
    tasks: Sequence[TaskView] = field(default_factory=tuple)
    failures: Sequence[FailureView] = field(default_factory=tuple)


def overview_here(title: str, now: float, served: Sequence[ServedHere], job: JobHere | None) -> Overview:
    """What a page draws of it."""
    deployments = [_deployment(each) for each in served]
    jobs = [] if job is None else [_job(job)]
    findings = [found for each in served for found in _findings(each)]
    level = worst(
        [
            *(each.level for each in findings),
            *(each.level for each in deployments),
            *(each.level for each in jobs),
        ]
    )
    said = {"error": "Something is to be acted on", "warning": "Something is to be looked at", "busy": "Under way"}
    changes = [change for each in served for change in _changes(each)]
    return Overview(
        source="process",
        title=title,
        time=now,
        level=level,
        headline=said.get(level, "All is well"),
        findings=findings,
        processors=[view for each in served for view in _processors(each)],
        deployments=deployments,
        jobs=jobs,
        changes=sorted(changes, key=lambda one: one.at, reverse=True),
    )


def _deployment(each: ServedHere) -> DeploymentView:
    state = each.state
    ready = state is not None and state.ready
    failed = any(model.state == "Failed" for model in each.models)
    level: Level = "error" if failed else "ok" if ready else "busy"
    return DeploymentView(
        id=f"{each.namespace}/{each.name}",
        namespace=each.namespace,
        name=each.name,
        level=level,
        reason="ModelLoadFailed" if failed else "Available" if ready else "ModelLoading",
        message=(state.message if state is not None else "") or ("it answers" if ready else "its models are loaded"),
        wanted=1,
        ready=int(ready),
        url=each.url,
        models=[_model(model) for model in each.models],
        pods=[PodView(name="this process", node="this machine", processor=each.kind, ready=ready,
                      message="it runs here: nothing was placed")],
    )  # fmt: skip


def _model(state: ModelState) -> ServedModelView:
    tuning, newest = state.tuning, state.changes[-1] if state.changes else None
    fit = None if tuning is None else tuning.fit
    return ServedModelView(
        name=state.name,
        ready=int(state.state == "Ready"),
        message=state.message,
        mode=state.mode,
        batch_size=state.batch_size,
        batch_min=state.batch_size,
        batch_max=state.batch_size,
        trend=state.trend,
        p95=None if tuning is None or not tuning.p95_milliseconds else tuning.p95_milliseconds,
        target=None if tuning is None else tuning.target_milliseconds,
        target_throughput=None if tuning is None else tuning.target_throughput,
        throughput=state.throughput,
        queue=state.queue_length,
        searching=state.searching,
        held_because="" if tuning is None else tuning.usually.reason,
        held_by="" if tuning is None else tuning.usually.rule,
        bound_by="" if tuning is None else tuning.bounds.bound_by,
        limit=None if tuning is None else tuning.bounds.cap,
        knee=None if fit is None else fit.knee,
        fixed_ms=None if fit is None else fit.fixed_milliseconds,
        per_row_ms=None if fit is None else fit.per_row_milliseconds,
        possible=None if tuning is None else tuning.possible_throughput,
        changed_at=None if newest is None else newest.time,
        changed_because="" if newest is None else newest.reason,
        changed_by="" if newest is None else newest.rule,
    )


def _processors(each: ServedHere) -> list[ProcessorView]:
    devices = each.state.devices if each.state is not None else ()
    return [_processor(each, device) for device in devices]


def _processor(each: ServedHere, device: DeviceState) -> ProcessorView:
    memory = device.memory_used_bytes / device.memory_bytes if device.memory_bytes else None
    node = f"{each.name} {device.device}"
    return ProcessorView(
        id=f"{node}/{device.kind}",
        node=node,
        kind=device.kind,
        level="ok",
        reason="NotMeasured",
        utilization=device.busy_ratio,
        memory=memory,
        sampled_at=each.state.time if each.state is not None else None,
        pods=1,
    )


def _findings(each: ServedHere) -> list[Finding]:
    failed = [model for model in each.models if model.state == "Failed"]
    return [
        Finding(level="error", kind="Model", namespace=each.name, name=model.name, reason="ModelLoadFailed",
                text=model.message)
        for model in failed
    ]  # fmt: skip


def _changes(each: ServedHere) -> list[ChangeView]:
    about = f"{each.namespace}/{each.name}"
    return [
        ChangeView(
            at=change.time,
            about=about,
            reason=change.reason,
            text=f"{model.name}: batch size {change.from_size} -> {change.to_size}: {change.message}",
        )
        for model in each.models
        for change in model.changes
    ]


def _job(job: JobHere) -> JobView:
    done = job.succeeded + job.failed
    ended = job.ended_at is not None
    level: Level = "warning" if job.failed else "ok" if ended else "busy"
    waits = f"waiting for {', '.join(job.waiting_for)}" if job.waiting_for else ""
    return JobView(
        id=f"{job.namespace}/{job.name}",
        namespace=job.namespace,
        name=job.name,
        level=level,
        reason="Completed" if ended else "Running",
        message=waits or ("all shards are written and so is the manifest" if ended else "this process works on it"),
        total=job.total,
        succeeded=job.succeeded,
        failed=job.failed,
        shards=job.shards,
        shards_done=[(index, index) for index in job.shards_done],
        rate=job.rate,
        eta_s=(job.total - done) / job.rate if job.rate and not ended else None,
        started_at=job.started_at,
        ended_at=job.ended_at,
        output=job.output,
        tasks=list(job.tasks),
        failures=list(job.failures),
    )
