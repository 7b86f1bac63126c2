"""Random instances of layer-by-layer scheduling (hypothesis), and schedules as the validator reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from hypothesis import strategies as st

from batchwright_worker.layerwise.core.policy import POLICIES, Policy
from batchwright_worker.layerwise.core.scheduler import LayerStep
from batchwright_worker.layerwise.core.values import ModelRequest, Prefetch
from batchwright_worker.layerwise.tools.instance import Instance, LayerDocument, RequestDocument, policy_of
from batchwright_worker.layerwise.tools.validator import TimedLayer

WHOLE_TIMES = st.integers(0, 12)
REAL_TIMES = st.floats(0, 12, allow_subnormal=False).map(lambda time: round(time, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One instance in steps."""

    budget: float
    prefetch: Prefetch
    policy_name: str
    skip_limit: int
    requests: Sequence[ModelRequest]

    def policy(self) -> Policy:
        """A fresh policy."""
        models = list({request.model: request.layers for request in self.requests}.values())
        return policy_of(self.policy_name, models, self.budget, skip_limit=self.skip_limit, theta=0.5)


def case_of(instance: Instance) -> Case:
    """The instance in steps."""
    assert instance.skip_limit is not None
    return Case(
        budget=instance.budget,
        prefetch=Prefetch(instance.prefetch),
        policy_name=instance.policy,
        skip_limit=instance.skip_limit,
        requests=instance.submitted(instance.unit()),
    )


def scaled(instance: Instance, factor: float) -> Instance:
    """The instance with all its times multiplied (as floats, with all the noise that makes)."""
    layers = {
        model: [
            LayerDocument(compute=layer.compute * factor, fetch=layer.fetch * factor, bytes=layer.bytes)
            for layer in layers
        ]
        for model, layers in instance.models.items()
    }
    submitted = [
        RequestDocument(model=request.model, arrival=request.arrival * factor) for request in instance.requests
    ]
    return msgspec.structs.replace(instance, models=layers, requests=submitted)


@st.composite
def instances(
    draw: st.DrawFn, *, policies: Sequence[str] = POLICIES, at_once: bool = False, boundless: bool = False
) -> Instance:
    """One to four models of one to five layers, up to seven requests; `at_once`: all at time 0."""
    times = draw(st.sampled_from((WHOLE_TIMES, REAL_TIMES)))
    budget = None if boundless else draw(st.sampled_from((1, 3, 6, 10, None)))
    layer = st.builds(LayerDocument, compute=times, fetch=times, bytes=st.integers(0, budget or 10))
    models = draw(st.lists(st.lists(layer, min_size=1, max_size=5), min_size=1, max_size=4))
    picks = draw(st.lists(st.integers(0, len(models) - 1), min_size=1, max_size=7))
    arrivals = draw(st.lists(st.just(0) if at_once else times, min_size=len(picks), max_size=len(picks)))
    return Instance(
        budget_bytes=budget,
        prefetch=draw(st.sampled_from(Prefetch)).value,
        policy=draw(st.sampled_from(policies)),
        skip_limit=draw(st.sampled_from((0, 1, 4, 16))),
        models={f"m{number}": layers for number, layers in enumerate(models)},
        requests=[
            RequestDocument(model=f"m{pick}", arrival=arrival) for pick, arrival in zip(picks, arrivals, strict=True)
        ],
    )


def cases(
    *, policies: Sequence[str] = POLICIES, at_once: bool = False, boundless: bool = False
) -> st.SearchStrategy[Case]:
    """Such instances in steps."""
    return instances(policies=policies, at_once=at_once, boundless=boundless).map(case_of)


def lying(steps: Sequence[LayerStep]) -> list[TimedLayer]:
    """Where the layers lie, for the validator."""
    return [
        TimedLayer(
            request=step.decision.request.order,
            position=step.decision.position,
            compute=step.decision.layer.compute,
            fetch=step.decision.layer.fetch,
            bytes=step.decision.layer.bytes,
            arrival=step.decision.request.arrival,
            fetch_start=step.placement.fetch_start,
            fetch_end=step.placement.fetch_end,
            compute_start=step.placement.compute_start,
            compute_end=step.placement.compute_end,
            compute_idle=step.placement.idle.compute,
            memory_idle=step.placement.idle.memory,
        )
        for step in steps
    ]
