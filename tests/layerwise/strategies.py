"""Random instances of layer-by-layer scheduling (hypothesis), and schedules as the validator reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from batchwright_worker.layerwise.core.policy import POLICIES, Policy
from batchwright_worker.layerwise.core.scheduler import LayerStep
from batchwright_worker.layerwise.core.values import Layer, ModelRequest, Prefetch
from batchwright_worker.layerwise.tools.instance import policy_of
from batchwright_worker.layerwise.tools.validator import TimedLayer

WHOLE_TIMES = st.integers(0, 12)
REAL_TIMES = st.floats(0, 12, allow_subnormal=False).map(lambda time: round(time, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One instance."""

    budget: float
    prefetch: Prefetch
    policy_name: str
    skip_limit: int
    requests: Sequence[ModelRequest]

    def policy(self) -> Policy:
        """A fresh policy."""
        models = list({request.model: request.layers for request in self.requests}.values())
        return policy_of(self.policy_name, models, self.budget, skip_limit=self.skip_limit, theta=0.5)


@st.composite
def cases(
    draw: st.DrawFn, *, policies: Sequence[str] = POLICIES, at_once: bool = False, boundless: bool = False
) -> Case:
    """One to four models of one to five layers, up to seven requests; `at_once`: all at time 0."""
    times = draw(st.sampled_from((WHOLE_TIMES, REAL_TIMES)))
    budget = math.inf if boundless else draw(st.sampled_from((1, 3, 6, 10, math.inf)))
    most = 10 if math.isinf(budget) else int(budget)
    layer = st.builds(Layer, compute=times, fetch=times, bytes=st.integers(0, most))
    models = draw(st.lists(st.lists(layer, min_size=1, max_size=5), min_size=1, max_size=4))
    picks = draw(st.lists(st.integers(0, len(models) - 1), min_size=1, max_size=7))
    arrivals = draw(st.lists(st.just(0) if at_once else times, min_size=len(picks), max_size=len(picks)))
    return Case(
        budget=budget,
        prefetch=draw(st.sampled_from(Prefetch)),
        policy_name=draw(st.sampled_from(policies)),
        skip_limit=draw(st.sampled_from((0, 1, 4, 16))),
        requests=[
            ModelRequest(model=f"m{pick}", layers=models[pick], arrival=arrival, order=order)
            for order, (pick, arrival) in enumerate(zip(picks, arrivals, strict=True))
        ],
    )


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
