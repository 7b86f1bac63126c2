"""What an overview of a cluster is made of, observed once; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from batchwright_operator.kube.objects import Raw

Gauges = Mapping[str, list[tuple[dict[str, str], float]]]
"""The operator's metrics: name -> (labels, value)."""
Place = tuple[str, str]
"""(node, accelerator kind)"""

_SAMPLE = {
    "batchwright_processor_utilization_ratio": "utilization",
    "batchwright_processor_memory_utilization_ratio": "memory",
    "batchwright_processor_sample_timestamp_seconds": "taken_at",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """Objects as they are in the cache. `pods`: those that run models; `events`: the operator's about our kinds.
    `live_problem`: why there are no live values (empty: there are). `operator_missing`: no operator leads.
    `silence`: why the API server says nothing since `silent_since`, so that all else is as it was then."""

    title: str
    now: float
    nodes: list[Raw] = field(default_factory=list)
    profiles: list[Raw] = field(default_factory=list)
    deployments: list[Raw] = field(default_factory=list)
    jobs: list[Raw] = field(default_factory=list)
    pods: list[Raw] = field(default_factory=list)
    events: list[Raw] = field(default_factory=list)
    gauges: Gauges = field(default_factory=dict)
    live_problem: str = ""
    silence: str = ""
    silent_since: float = 0.0
    operator_missing: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def unseen(self) -> list[str]:
        """What cannot be seen, live values among it, and why."""
        return [*self.notes, *([self.live_problem] if self.live_problem else [])]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveLoad:
    """The newest sample of a processor that the operator has; shares in [0, 1]."""

    utilization: float
    memory: float
    taken_at: float


def live_loads(gauges: Gauges) -> dict[Place, LiveLoad]:
    """Every processor of which all three gauges are there."""
    found: dict[Place, dict[str, float]] = {}
    for name, field_name in _SAMPLE.items():
        for labels, value in gauges.get(name, ()):
            found.setdefault((labels["node"], labels["kind"]), {})[field_name] = value
    return {place: LiveLoad(**values) for place, values in found.items() if len(values) == len(_SAMPLE)}


def gauges_of(gauges: Gauges, prefix: str) -> dict[tuple[str, str], dict[str, float]]:
    """(namespace, name) -> the gauges of that object that begin with `prefix`, by what follows it."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, values in gauges.items():
        if name.startswith(prefix):
            for labels, value in values:
                if "namespace" in labels and "name" in labels:
                    at = (labels["namespace"], labels["name"])
                    found.setdefault(at, {})[name.removeprefix(prefix)] = value
    return found
