"""Trials of the same requests on one device: streamed under a policy, and one whole model after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from batchwright_worker.host.threads import beside_main
from batchwright_worker.inference.requests import Array
from batchwright_worker.layerwise.core.policy import Policy
from batchwright_worker.layerwise.core.values import Prefetch
from batchwright_worker.layerwise.execution.executor import EngineTotals, Executor
from batchwright_worker.layerwise.execution.jobs import Accelerator, LayerwiseBatch, UnitRecord
from batchwright_worker.layerwise.execution.planner import UnitPlans
from batchwright_worker.layerwise.memory.pool import UnitReader, page_aligned
from batchwright_worker.layerwise.networks.units import Bytes, Network
from batchwright_worker.layerwise.tools.instance import policy_of
from batchwright_worker.layerwise.tools.recurrence_check import RecurrenceCheck, check_recurrence

__all__ = [
    "WHOLE",
    "Trial",
    "TrialRequest",
    "policy_named",
    "read_whole",
    "run_in_turn",
    "run_streamed",
    "run_whole",
    "same_outputs",
]

WHOLE: Final = "whole model"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRequest:
    """One request of a trial: its inputs have `rows` rows."""

    model: str
    rows: int
    inputs: Mapping[str, Array]


@dataclass(slots=True, kw_only=True)
class Trial:
    """The requests served in one way. `outputs` in the order of the requests; `peak_bytes` of weights in flight."""

    name: str
    makespan_s: float = 0.0
    outputs: list[Mapping[str, Array]] = field(default_factory=list)
    records: list[UnitRecord] = field(default_factory=list)
    totals: EngineTotals = field(default_factory=EngineTotals)
    peak_bytes: int = 0
    check: RecurrenceCheck | None = None


def policy_named(
    name: str, plans: UnitPlans, requests: Sequence[TrialRequest], budget_bytes: int, skip_limit: int | None
) -> Policy:
    """A policy for these requests; a skip limit of None follows from the measured times (auto-N, `core.skip_limit`)."""
    shapes = dict.fromkeys((request.model, request.rows) for request in requests)
    layers = [plans.layers(model, rows) for model, rows in shapes]
    return policy_of(name, layers, budget_bytes, skip_limit=skip_limit)


def run_streamed(
    device: Accelerator,
    plans: UnitPlans,
    requests: Sequence[TrialRequest],
    policy: Policy,
    prefetch: Prefetch = Prefetch.WHOLE,
) -> Trial:
    """All requests arrive at once, their inputs on the device, and end in the order that the policy gives. Raises what
    a batch raised."""
    trial = Trial(name=policy.name)
    device.ring.peak = 0
    batches = [_batch(request, plans) for request in requests]
    executor = Executor(device, policy, trial.records.append, prefetch=prefetch)
    for batch in batches:
        executor.stage(batch)
    begin = time.monotonic()
    with executor.deciding_paused():
        for batch in batches:
            batch.arrival = begin
            executor.submit(batch)
    executor.wait_idle()
    trial.makespan_s = time.monotonic() - begin
    executor.close()
    for batch in batches:
        if batch.error is not None:
            raise batch.error
        trial.outputs.append(batch.outputs)
    trial.totals, trial.peak_bytes = executor.totals, device.ring.peak
    trial.check = check_recurrence(trial.records, device.ring.capacity, prefetch, device.piece_bytes)
    return trial


def run_whole(networks: Mapping[str, tuple[Network, UnitReader]], requests: Sequence[TrialRequest]) -> Trial:
    """In order of the requests; a model that is not there is read whole, in the place of the one that is."""

    def read(model: str, place: Bytes) -> None:
        network, reader = networks[model]
        read_whole(network, reader, place)

    return run_in_turn(WHOLE, {name: network for name, (network, _) in networks.items()}, requests, read)


def read_whole(network: Network, reader: UnitReader, place: Bytes) -> None:
    """All units of a network, at their offsets."""
    for unit in network.index.units:
        reader.read(unit, place[unit.offset : unit.offset + unit.size])


def run_in_turn(
    name: str, networks: Mapping[str, Network], requests: Sequence[TrialRequest], bring: Callable[[str, Bytes], None]
) -> Trial:
    """In order of the requests, each model whole; `bring` puts the weights of one that is not there in the place of
    the one that is."""
    return beside_main(_run_in_turn, name, networks, requests, bring)


def _run_in_turn(
    name: str, networks: Mapping[str, Network], requests: Sequence[TrialRequest], bring: Callable[[str, Bytes], None]
) -> Trial:
    trial = Trial(name=name)
    memory = page_aligned(max(network.index.weight_bytes for network in networks.values()))
    states = [networks[request.model].begin(request.inputs, request.rows) for request in requests]
    begin, here = time.monotonic(), ""
    for request, state in zip(requests, states, strict=True):
        network = networks[request.model]
        if request.model != here:
            bring(request.model, memory)
            trial.totals.bytes += network.index.weight_bytes
            here = request.model
        for position, unit in enumerate(network.index.units):
            network.compute(position, memory[unit.offset : unit.offset + unit.size], state)
        trial.outputs.append(network.end(state, request.rows))
    trial.makespan_s = time.monotonic() - begin
    trial.peak_bytes = memory.nbytes
    return trial


def same_outputs(one: Trial, other: Trial) -> bool:
    """Bit by bit, request by request."""
    return len(one.outputs) == len(other.outputs) and all(
        left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
        for left, right in zip(one.outputs, other.outputs, strict=True)
    )


def _batch(request: TrialRequest, plans: UnitPlans) -> LayerwiseBatch:
    return LayerwiseBatch(
        model=request.model,
        inputs=request.inputs,
        rows=request.rows,
        layers=plans.layers(request.model, request.rows),
        settled=_seen,
    )


def _seen(_batch: LayerwiseBatch) -> None:
    """`run_streamed` waits for all batches at once."""
