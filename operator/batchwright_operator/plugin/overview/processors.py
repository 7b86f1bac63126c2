"""Nodes and their profiles as processors; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from batchwright_operator.kube.conditions import holds
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.plugin.overview.facts import ClusterFacts, LiveLoad, Place, live_loads
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.processors.processor import BENCHMARKED, ESTIMATED, Processor, kinds_on, processors_of
from batchwright_worker.api.names import LABEL_KIND, kind_slug
from batchwright_worker.dashboard.overview import Level, ProcessorView

BUSY: Final = 0.05
"""Below this share a processor has nothing to do."""
STALE_S: Final = 60.0
"""Agents are asked every few seconds."""


def processors(facts: ClusterFacts) -> list[ProcessorView]:
    """One per kind of accelerator of each node, nodes by name, `cpu` first."""
    profiles = {str(each["metadata"]["name"]): each for each in facts.profiles}
    loads, pods = live_loads(facts.gauges), _model_pods(facts.pods)
    named = sorted(facts.nodes, key=lambda one: str(one["metadata"]["name"]))
    return [view for node in named for view in _of_node(node, profiles, loads, pods, facts.now)]


def _model_pods(pods: list[Raw]) -> Counter[tuple[str, str]]:
    """(node, slug of the kind) -> pods that have not ended."""
    found: Counter[tuple[str, str]] = Counter()
    for pod in pods:
        if is_over(pod):
            continue
        node = str((pod.get("spec") or {}).get("nodeName") or "")
        found[node, str((pod["metadata"].get("labels") or {}).get(LABEL_KIND, ""))] += 1
    return found


def _of_node(
    node: Raw, profiles: Mapping[str, Raw], loads: Mapping[Place, LiveLoad], pods: Counter[tuple[str, str]], now: float
) -> list[ProcessorView]:
    name = str(node["metadata"]["name"])
    known = processors_of(profiles.get(name))
    return [
        _view(node, known.get(kind, Processor(kind=kind)), loads.get((name, kind)), pods[name, kind_slug(kind)], now)
        for kind in kinds_on(node)
    ]


def _view(node: Raw, processor: Processor, load: LiveLoad | None, pods: int, now: float) -> ProcessorView:
    name = str(node["metadata"]["name"])
    away = _away(node)
    return ProcessorView(
        id=f"{name}/{processor.kind}",
        node=name,
        kind=processor.kind,
        level=_level(processor, load, away, now),
        product=processor.product,
        slots=processor.slots,
        reason=away[0] if away else processor.reason,
        message=away[1] if away else processor.message,
        capacity=processor.capacity,
        node_capacity=processor.node_capacity,
        load_table=[(row.batch_size, row.images_per_second, row.max_services) for row in processor.load_table],
        estimated_from=processor.estimated_from,
        benchmarked_at=unix(processor.benchmarked_time),
        utilization=None if load is None else load.utilization,
        memory=None if load is None else load.memory,
        sampled_at=None if load is None else load.taken_at,
        pods=pods,
    )


def _away(node: Raw) -> tuple[str, str] | None:
    """Why no new pod goes to this node."""
    if not holds((node.get("status") or {}).get("conditions"), "Ready"):
        return "NodeNotReady", "the node is not ready: its conditions say why"
    if (node.get("spec") or {}).get("unschedulable"):
        return "Cordoned", "the node is cordoned: no new pod goes there until somebody uncordons it"
    return None


def _level(processor: Processor, load: LiveLoad | None, away: tuple[str, str] | None, now: float) -> Level:
    if away is not None:
        return "error" if away[0] == "NodeNotReady" else "warning"
    if processor.failures:
        return "warning"
    if processor.capacity is None and processor.reason not in (BENCHMARKED, ESTIMATED):
        return "busy" if processor.awaiting else "ok"
    if load is None or now - load.taken_at > STALE_S:
        return "ok"
    return "idle" if load.utilization < BUSY else "ok"
