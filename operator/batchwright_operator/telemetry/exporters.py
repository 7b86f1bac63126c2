"""Samples of processors from the series of the vendors' exporters (`api/accelerators` of the worker names them). Pure.

A value that is a sentinel, not a number or out of its range is no value, and a series that is absent is not zero load:
a device whose utilization or memory nobody reports is left out, and a processor without a device left has no sample.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batchwright_operator.reconcile.live_state import DeviceSample, Sample
from batchwright_worker.api.accelerators import VENDORS, Exporter, MemoryMetrics, Vendor, offered_as

_INT32_BLANK: Final = range(0x7FFFFFF0, 0x7FFFFFF4)
_FLOAT_BLANK: Final = float(1 << 47)
"""DCGM's sentinels: 2147483632.., 140737488355328.., and 9223372036854775792.. (the last two are only `huge`)."""
_SLACK: Final = 1.02
"""A share may be a little above 1 by rounding; more is a broken value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series' newest value; `age_s` by the clock of whoever scraped it."""

    name: str
    labels: Mapping[str, str]
    value: float
    age_s: float


_EXPORTERS: Final = tuple((vendor, vendor.exporter) for vendor in VENDORS if vendor.exporter is not None)
METRICS: Final = frozenset().union(*(exporter.names for _, exporter in _EXPORTERS))
_NODE_LABELS: Final = ("node", "kubernetes_node", "nodename", "Hostname", "hostname", "exported_node", "instance")


def is_measured(value: float) -> bool:
    """Whether this is a measured value, and not a sentinel for `none`."""
    return math.isfinite(value) and 0 <= value < _FLOAT_BLANK and value not in _INT32_BLANK


def samples_of(
    series: Iterable[Series], nodes: Mapping[str, str], kinds: Mapping[str, Sequence[str]], now: float
) -> dict[tuple[str, str], Sample]:
    """Samples of all processors that these series report on.

    `nodes` maps names and addresses to nodes, `kinds` a node to its accelerator kinds. A MIG instance belongs to the
    kind of its profile where the node has one, else (one strategy for all) to the vendor's kind.
    """
    found: dict[tuple[str, str], list[tuple[DeviceSample, float]]] = defaultdict(list)
    for (index, node, device), values in _by_device(series, nodes).items():
        vendor, exporter = _EXPORTERS[index]
        kind = _kind(vendor, exporter, kinds.get(node, ()), values)
        sample = _device(exporter, device, values)
        if kind and sample:
            found[node, kind].append((sample, max(each.age_s for each in values.values())))
    return {
        where: mean_sample([each for each, _ in got], now - max(age for _, age in got)) for where, got in found.items()
    }


def mean_sample(devices: Sequence[DeviceSample], taken_at: float) -> Sample:
    """A processor's sample: the mean over its devices. A free device is idle, so it counts with 0."""
    return Sample(
        utilization=sum(each.utilization for each in devices) / len(devices),
        memory_utilization=sum(each.memory_utilization for each in devices) / len(devices),
        taken_at=taken_at,
        devices=tuple(sorted(devices, key=lambda each: each.id)),
    )


def share(value: float, full: float) -> float | None:
    """value / full in [0, 1]; None when that cannot be a share."""
    if not (is_measured(value) and is_measured(full)) or full <= 0 or value > full * _SLACK:
        return None
    return min(1.0, value / full)


def node_of(labels: Mapping[str, str], nodes: Mapping[str, str]) -> str | None:
    """The node that a series is about: by the labels that name one, the scraped address last."""
    for label in _NODE_LABELS:
        named = labels.get(label, "")
        known = nodes.get(named) or nodes.get(named.rsplit(":", 1)[0].strip("[]"))
        if known:
            return known
    return None


def _by_device(series: Iterable[Series], nodes: Mapping[str, str]) -> dict[tuple[int, str, str], dict[str, Series]]:
    """(index of the exporter, node, device) -> metric -> its usable value."""
    exporters = {name: index for index, (_, exporter) in enumerate(_EXPORTERS) for name in exporter.names}
    found: dict[tuple[int, str, str], dict[str, Series]] = defaultdict(dict)
    for each in series:
        index = exporters.get(each.name)
        node = node_of(each.labels, nodes)
        if index is None or node is None or not is_measured(each.value):
            continue
        parts = (each.labels.get(label, "") for label in _EXPORTERS[index][1].device)
        found[index, node, "/".join(part for part in parts if part)][each.name] = each
    return found


def _kind(vendor: Vendor, exporter: Exporter, kinds: Sequence[str], values: Mapping[str, Series]) -> str | None:
    offered = [kind for kind in kinds if kind.startswith(vendor.prefix)]
    profiles = (each.labels.get(exporter.partition, "") for each in values.values())
    profile = next((each for each in profiles if each), "")
    reported = f"{vendor.partitions}{profile}" if profile else vendor.kind
    return offered_as(reported, offered) or next(iter(offered), None)


def _device(exporter: Exporter, device: str, values: Mapping[str, Series]) -> DeviceSample | None:
    shares = (share(values[each.name].value, each.full) for each in exporter.busy if each.name in values)
    busy = next((each for each in shares if each is not None), None)
    memory = next((found for each in exporter.memory if (found := _memory(each, values)) is not None), None)
    return (
        None if busy is None or memory is None else DeviceSample(id=device, utilization=busy, memory_utilization=memory)
    )


def _memory(metrics: MemoryMetrics, values: Mapping[str, Series]) -> float | None:
    other = metrics.total or metrics.free
    if metrics.used not in values or other not in values:
        return None
    used, rest = values[metrics.used].value, values[other].value
    return share(used, rest if metrics.total else used + rest)
