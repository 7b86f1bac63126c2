"""The same requests on one CPU in several ways: streamed under a policy, and one whole model after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from batchwright_worker.layerwise.core.policy import Balanced, Fifo, Literal, Policy, RoundRobin
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.execution.executor import Executor, Totals
from batchwright_worker.layerwise.execution.jobs import Accelerator, Batch, Record
from batchwright_worker.layerwise.execution.planner import Plans
from batchwright_worker.layerwise.memory.pool import UnitReader, page_aligned
from batchwright_worker.layerwise.networks.units import Array, Network
from batchwright_worker.layerwise.tools.recurrence_check import Replay, replay

__all__ = ["WHOLE", "Ask", "Run", "policy_named", "run_streamed", "run_whole", "same_outputs"]

WHOLE: Final = "whole model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: its inputs have `rows` rows."""

    model: str
    rows: int
    inputs: Mapping[str, Array]


@dataclass(slots=True, kw_only=True)
class Run:
    """How one way went. `outputs` in the order of the requests; `peak_bytes` of weights in flight."""

    name: str
    makespan_s: float = 0.0
    outputs: list[Mapping[str, Array]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    peak_bytes: int = 0
    told: Replay | None = None


def policy_named(name: str, plans: Plans, asks: Sequence[Ask], budget_bytes: int, skip_limit: int | None) -> Policy:
    """A policy for these requests; without a skip limit the one that the measured times ask for (auto-N)."""
    layers = [plans.layers(model, rows) for model, rows in dict.fromkeys((ask.model, ask.rows) for ask in asks)]
    limit = auto_skip_limit(layers, budget_bytes) if skip_limit is None else skip_limit
    match name:
        case "fifo":
            return Fifo()
        case "round_robin":
            return RoundRobin()
        case "literal":
            return Literal(skip_limit=limit)
        case "balanced":
            return Balanced(skip_limit=limit, fill_time=fill_time(layers, budget_bytes))
    raise ValueError(f"there is no policy {name!r}")


def run_streamed(device: Accelerator, plans: Plans, asks: Sequence[Ask], policy: Policy) -> Run:
    """All requests are there at once; answers come as the policy has it. Raises what a batch raised."""
    run = Run(name=policy.name)
    device.ring.peak = 0
    batches = [
        Batch(
            model=ask.model, inputs=ask.inputs, rows=ask.rows, layers=plans.layers(ask.model, ask.rows), settled=_seen
        )
        for ask in asks
    ]
    executor = Executor(device, policy, run.records.append)
    begin = time.monotonic()
    with executor.held():
        for batch in batches:
            batch.arrival = begin
            executor.submit(batch)
    executor.wait_idle()
    run.makespan_s = time.monotonic() - begin
    executor.close()
    for batch in batches:
        if batch.error is not None:
            raise batch.error
        run.outputs.append(batch.outputs)
    run.totals, run.peak_bytes = executor.totals, device.ring.peak
    run.told = replay(run.records, device.ring.capacity)
    return run


def run_whole(networks: Mapping[str, tuple[Network, UnitReader]], asks: Sequence[Ask]) -> Run:
    """In order of the requests; a model that is not there is read whole, in the place of the one that is."""
    run = Run(name=WHOLE)
    memory = page_aligned(max(network.index.weight_bytes for network, _ in networks.values()))
    begin, here = time.monotonic(), ""
    for ask in asks:
        network, reader = networks[ask.model]
        if ask.model != here:
            for unit in network.index.units:
                reader.read(unit, memory[unit.offset : unit.offset + unit.size])
            here = ask.model
        state = network.begin(ask.inputs, ask.rows)
        for position, unit in enumerate(network.index.units):
            network.compute(position, memory[unit.offset : unit.offset + unit.size], state)
        run.outputs.append(network.end(state, ask.rows))
    run.makespan_s = time.monotonic() - begin
    run.peak_bytes = memory.nbytes
    return run


def same_outputs(one: Run, other: Run) -> bool:
    """Bit by bit, request by request."""
    return len(one.outputs) == len(other.outputs) and all(
        left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)
        for left, right in zip(one.outputs, other.outputs, strict=True)
    )


def _seen(_batch: Batch) -> None:
    """The run waits for all of them."""
