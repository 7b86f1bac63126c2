"""Class of a processor: nodes that are alike, of which one measurement is an estimate for all. Pure.

A thousand nodes of an instance type are not a thousand different machines. Until a node is measured itself, in idle
time, it counts as what a sibling of its class was measured as; where nothing says what a machine is, it has no class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.quantities import amounts
from batchwright_operator.processors.benchmark_jobs import BENCHMARK_VERSION, image_of
from batchwright_operator.processors.processor import ESTIMATED, Processor, decimal
from batchwright_operator.settings import Settings
from batchwright_worker.api.accelerators import vendor_of
from batchwright_worker.api.names import KIND_CPU

INSTANCE_TYPE: Final = "node.kubernetes.io/instance-type"
CPU_MODEL: Final = tuple(f"feature.node.kubernetes.io/cpu-model.{part}" for part in ("vendor_id", "family", "id"))
"""Of Node Feature Discovery, where there is no instance type."""


def class_of(node: Raw, kind: str, settings: Settings) -> str:
    """Digest of what siblings have in common; empty where nothing tells what the processor is."""
    labels, status = node["metadata"].get("labels") or {}, node.get("status") or {}
    vendor = vendor_of(kind)
    names = [INSTANCE_TYPE, *settings.benchmark_class_labels]
    names += CPU_MODEL if kind == KIND_CPU else vendor.product_labels if vendor else ()
    identity = [labels.get(name, "") for name in names]
    if not any(identity):
        return ""
    allocatable = amounts(status.get("allocatable"))
    facts = [
        kind,
        identity,
        (status.get("nodeInfo") or {}).get("architecture", ""),
        allocatable.get(kind, 0.0),
        # The same accelerator behind fewer cores is fed slower.
        allocatable.get("cpu", 0.0),
        image_of(kind, settings),
        BENCHMARK_VERSION,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def siblings(wanted: str, profiles: Mapping[str, Mapping[str, Processor]]) -> list[tuple[str, Processor]]:
    """(node, processor) of this class that were measured themselves, by node."""
    found = (
        (node, each) for node, processors in sorted(profiles.items()) for each in processors.values()
        if each.node_class == wanted and each.capacity is not None and not each.estimated_from
    )  # fmt: skip
    return list(found) if wanted else []


def estimated(known: Processor, measured: Iterable[tuple[str, Processor]]) -> Processor:
    """The processor as its class was measured: the sibling with the median capacity. As it is without a sibling, and
    where it was measured itself."""
    if known.capacity is not None and not known.estimated_from:
        return known
    ranked = sorted(measured, key=lambda each: (each[1].capacity or 0.0, each[0]))
    if not ranked:
        return known
    node, sibling = ranked[(len(ranked) - 1) // 2]
    assert sibling.capacity is not None
    return replace(
        known,
        product=sibling.product,
        driver=sibling.driver,
        devices=sibling.devices,
        load_table=sibling.load_table,
        capacity=sibling.capacity,
        scaling=sibling.scaling,
        slots_per_device=sibling.slots_per_device,
        estimated_from=node,
        reason=ESTIMATED,
        message=f"as {node}, of the same class: {decimal(sibling.capacity)} images/s; to be measured in idle time",
    )
