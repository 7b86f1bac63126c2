"""How a model's batch size is decided, as its state tells it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from batchwright_worker.api.messages import BoundsState, FitState, HoldState, TuningState
from batchwright_worker.scheduler.batch_size.device_time import Curve
from batchwright_worker.scheduler.batch_size.tuning import TuningDecision
from batchwright_worker.scheduler.devices import UNBOUNDED, Device
from batchwright_worker.scheduler.dispatch import rows_that_fit
from batchwright_worker.scheduler.served_model import BatchBounds, ServedModel

_NAMES: Final = ("Size", "Knee", "Reach", "InTime", "FairShare", "Memory")


def tuning_state(
    served: ServedModel, decision: TuningDecision | None, usually: HoldState, devices: Iterable[Device], now: float
) -> TuningState:
    """As of now; `decision`: the last window's, None before the first one has ended."""
    config, curve = served.config.tuning, served.tuning_curve()
    told = TuningState(
        controller=config.controller,
        message=_first_size(served),
        usually=usually,
        proposed_size=served.tuner.size,
        target_milliseconds=None if config.latency_s is None else config.latency_s * 1e3,
        target_throughput=config.throughput,
        possible_throughput=round(curve.rows_per_second(served.tuner.size), 3),
        fit=_fit(curve, config.max_size) if curve.known else None,
        bounds=bounds_now(served, devices, now),
    )
    return told if decision is None else _with_decision(told, decision)


def _first_size(served: ServedModel) -> str:
    if served.config.initial_size is not None:
        return "the first size is batching.initialSize"
    if not served.tuner.opening:
        return "the warm-up's batches predict the first size"
    if served.largest_ran:
        return "the first batches predict the first size"
    if served.reference.known:
        return "the load table of the processor predicts the first size"
    return "the first size is batching.minSize: no batch has run yet"


def latency_target_met(served: ServedModel, decision: TuningDecision | None) -> bool | None:
    """Was the p95 of the last window within the target? None without a target, or where nothing is known."""
    target_s = served.config.tuning.latency_s
    if decision is None or target_s is None:
        return None
    if decision.window.latency_s > target_s:
        return False
    return True if decision.window.requests else None


def bounds_now(served: ServedModel, devices: Iterable[Device], now: float) -> BoundsState:
    """What bounds a batch of the shape that ran last."""
    return bounds_state(served.bounds(now), memory_rows(served, devices))


def bounds_state(bounds: BatchBounds, memory: int) -> BoundsState:
    """The bounds with what fits in memory, and which of them it is that bounds: the last one that makes it smaller."""
    chain = [*bounds, min(bounds.fair_share, memory)]
    binding = max(i for i in range(len(chain)) if i == 0 or chain[i] < chain[i - 1])
    return BoundsState(
        size=bounds.size,
        knee=bounds.knee,
        reach=bounds.reach,
        in_time=bounds.in_time,
        fair_share=bounds.fair_share,
        memory=chain[-1],
        cap=max(1, chain[-1]),
        bound_by=_NAMES[binding],
    )


def memory_rows(served: ServedModel, devices: Iterable[Device]) -> int:
    """Rows of a batch that fit on the device with most room that holds the model; UNBOUNDED where nothing bounds them
    or it is nowhere."""
    rooms = [_room(served, device) for device in devices if device.holds(served.name)]
    return max(rooms, default=UNBOUNDED)


def _room(served: ServedModel, device: Device) -> int:
    memory = device.memory
    free = memory.free_bytes + memory.residents[served.name].retained_bytes
    # A batch in flight holds its memory now, and gives it back for the next one.
    in_flight = sum(flight.rows for flight in device.timeline.in_flight if flight.model == served.name)
    fits = rows_that_fit(free, served.footprint.bytes_per_row) + in_flight
    return min(fits, memory.caps.get(served.name, UNBOUNDED))


def _fit(curve: Curve, most: int) -> FitState:
    return FitState(
        fixed_milliseconds=round(curve.fixed_s * 1e3, 4),
        per_row_milliseconds=round(curve.per_row_s * 1e3, 4),
        linear=curve.linear,
        knee=curve.knee(most),
        batches=curve.batches,
    )


def _with_decision(told: TuningState, decision: TuningDecision) -> TuningState:
    return replace(
        told,
        rule=decision.rule,
        reason=decision.reason,
        message=decision.message,
        proposed_size=decision.proposed,
        p95_milliseconds=round(decision.window.latency_s * 1e3, 3),
        published_throughput=round(decision.published_throughput, 3),
    )
