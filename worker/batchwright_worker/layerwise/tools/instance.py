"""One instance of the scheduling problem as a JSON document, and its schedule as another. Pure.

    {"budgetBytes": 6, "prefetch": "whole", "policy": "literal", "skipLimit": 0,
     "models": {"A": [{"compute": 4, "fetch": 1, "bytes": 1}]},
     "requests": [{"model": "A", "arrival": 0}]}

Times are numbers >= 0 of any one unit and come back in it. They are read as decimals (`core.steps`) and scheduled
without rounding, in the coarsest step in which all of them are whole. `budgetBytes` null: boundless. `skipLimit` 0: no
guard; absent: it follows from the budget (auto-N, `core.skip_limit`). `theta` (balanced) is 0.5 unless given.
`prefetch` is whole unless given. Anything else that is missing, unknown or of another kind is refused, with its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import msgspec

from batchwright_worker.layerwise.core.policy import (
    DEFAULT_THETA,
    POLICIES,
    Balanced,
    Fifo,
    Literal,
    Policy,
    RoundRobin,
)
from batchwright_worker.layerwise.core.rollout import Rollout
from batchwright_worker.layerwise.core.scheduler import LayerStep
from batchwright_worker.layerwise.core.simulator import SimulatedAccelerator, run
from batchwright_worker.layerwise.core.skip_limit import auto_skip_limit, fill_time
from batchwright_worker.layerwise.core.steps import StepUnit, common_unit
from batchwright_worker.layerwise.core.values import Layer, LayerwiseError, ModelRequest, Prefetch

__all__ = [
    "Instance",
    "InstanceError",
    "LayerDocument",
    "PlacedLayer",
    "RequestDocument",
    "Schedule",
    "parse",
    "policy_of",
    "scheduled",
]

Number = int | float
LARGEST: Final = 2**63


class InstanceError(LayerwiseError):
    """The document is no instance; the message names the place and what is wanted there."""


class _Wire(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """camelCase fields; unknown ones are refused."""


class LayerDocument(_Wire):
    """One layer: times, and bytes (a whole number)."""

    compute: Number
    fetch: Number
    bytes: Number
    name: str = ""


class RequestDocument(_Wire):
    """One run of a model."""

    model: str
    arrival: Number = 0


class Instance(_Wire):
    """See the module's docstring."""

    budget_bytes: Number | None
    policy: str
    models: dict[str, list[LayerDocument]]
    requests: list[RequestDocument]
    prefetch: str = Prefetch.WHOLE.value
    skip_limit: Annotated[int, msgspec.Meta(ge=0)] | None = None
    theta: Number = DEFAULT_THETA

    @property
    def budget(self) -> float:
        """The budget, infinite if there is none."""
        return math.inf if self.budget_bytes is None else int(self.budget_bytes)

    def unit(self) -> StepUnit:
        """The step of its times; with fluid prefetch so fine that every pause ends at a whole step."""
        layers = [layer for layers in self.models.values() for layer in layers]
        times = [request.arrival for request in self.requests]
        times += [time for layer in layers for time in (layer.compute, layer.fetch)]
        fluid = self.prefetch == Prefetch.FLUID
        return common_unit(times, [(layer.fetch, int(layer.bytes)) for layer in layers] if fluid else ())

    def layers(self, unit: StepUnit) -> dict[str, tuple[Layer, ...]]:
        """The models' layers, in these steps."""
        return {
            model: tuple(
                Layer(
                    compute=unit.steps(layer.compute),
                    fetch=unit.steps(layer.fetch),
                    bytes=int(layer.bytes),
                    name=layer.name,
                )
                for layer in layers
            )
            for model, layers in self.models.items()
        }

    def submitted(self, unit: StepUnit) -> list[ModelRequest]:
        """The requests, in these steps."""
        models = self.layers(unit)
        return [
            ModelRequest(
                model=request.model,
                layers=models[request.model],
                arrival=unit.steps(request.arrival),
                order=order,
            )
            for order, request in enumerate(self.requests)
        ]


class PlacedLayer(_Wire):
    """One layer of the schedule; `request` and `layer` count from 0, `skips` is how often it had been passed over."""

    model: str
    request: int
    layer: int
    fetch_start: Number
    fetch_end: Number
    compute_start: Number
    compute_end: Number
    compute_idle: Number
    memory_idle: Number
    skips: int


class Schedule(_Wire):
    """All layers in the order of the picks; the idle times are the sums of the layers'."""

    layers: list[PlacedLayer]
    makespan: Number
    compute_idle: Number
    memory_idle: Number


def parse(document: bytes) -> Instance:
    """The instance in a JSON document. Raises InstanceError."""
    try:
        instance = msgspec.json.decode(document, type=Instance)
    except msgspec.DecodeError as error:
        raise InstanceError(f"this is no instance: {error}") from error
    for problem in _problems(instance):
        raise InstanceError(problem)
    return instance


def _problems(instance: Instance) -> Iterator[str]:
    """What the types alone do not say, in the order of the document."""
    if instance.policy not in POLICIES:
        yield f"policy: wanted one of {', '.join(POLICIES)}, given {instance.policy!r}"
    if instance.prefetch not in tuple(Prefetch):
        yield f"prefetch: wanted one of {', '.join(Prefetch)}, given {instance.prefetch!r}"
    if instance.budget_bytes is not None:
        yield from _number("budgetBytes", instance.budget_bytes, whole=True)
    yield from _number("theta", instance.theta)
    for model, layers in instance.models.items():
        if not layers:
            yield f"models.{model}: wanted at least one layer"
        for position, layer in enumerate(layers):
            place = f"models.{model}[{position}]"
            yield from _number(f"{place}.compute", layer.compute)
            yield from _number(f"{place}.fetch", layer.fetch)
            yield from _number(f"{place}.bytes", layer.bytes, whole=True)
    for position, request in enumerate(instance.requests):
        if request.model not in instance.models:
            known = ", ".join(instance.models) or "none"
            yield f"requests[{position}].model: {request.model!r} is not among the models ({known})"
        yield from _number(f"requests[{position}].arrival", request.arrival)


def _number(place: str, value: Number, *, whole: bool = False) -> Iterator[str]:
    if not 0 <= value <= LARGEST or (whole and value != int(value)):
        yield f"{place}: wanted a {'whole ' if whole else ''}number of 0 or more (2^63 at most), given {value!r}"


def policy_of(
    name: str,
    models: Sequence[Sequence[Layer]],
    budget_bytes: float,
    *,
    skip_limit: int | None,
    theta: float = DEFAULT_THETA,
) -> Policy:
    """The policy by its name; no skip limit: auto-N."""
    limit = auto_skip_limit(models, budget_bytes) if skip_limit is None else skip_limit
    match name:
        case "fifo":
            return Fifo()
        case "round_robin":
            return RoundRobin()
        case "literal":
            return Literal(limit)
        case "balanced":
            return Balanced(limit, fill_time(models, budget_bytes), theta)
        case "rollout":
            return Rollout(limit, fill_time(models, budget_bytes))
    raise ValueError(f"there is no policy {name!r}: there are {', '.join(POLICIES)}")


def scheduled(instance: Instance) -> Schedule:
    """Run the instance. Raises BudgetTooSmall."""
    unit = instance.unit()
    policy = policy_of(
        instance.policy,
        list(instance.layers(unit).values()),
        instance.budget,
        skip_limit=instance.skip_limit,
        theta=instance.theta,
    )
    accelerator = SimulatedAccelerator(budget_bytes=instance.budget, prefetch=Prefetch(instance.prefetch))
    steps = run(accelerator.scheduler(policy), instance.submitted(unit))
    return Schedule(
        layers=[_placed(step, unit) for step in steps],
        makespan=unit.time(steps[-1].placement.compute_end if steps else 0),
        compute_idle=unit.time(sum(step.placement.idle.compute for step in steps)),
        memory_idle=unit.time(sum(step.placement.idle.memory for step in steps)),
    )


def _placed(step: LayerStep, unit: StepUnit) -> PlacedLayer:
    decision, placement = step
    return PlacedLayer(
        model=decision.request.model,
        request=decision.request.order,
        layer=decision.position,
        fetch_start=unit.time(placement.fetch_start),
        fetch_end=unit.time(placement.fetch_end),
        compute_start=unit.time(placement.compute_start),
        compute_end=unit.time(placement.compute_end),
        compute_idle=unit.time(placement.idle.compute),
        memory_idle=unit.time(placement.idle.memory),
        skips=decision.skips,
    )
