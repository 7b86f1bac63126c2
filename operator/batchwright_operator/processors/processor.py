"""Processor: one kind of accelerator on one node, as the node and its profile describe it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from batchwright_operator.kube.metadata import label, whole_number
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.quantities import amounts
from batchwright_operator.processors.drift import SpotCheck
from batchwright_worker.api.accelerators import SHARED, is_processor
from batchwright_worker.api.messages import BenchmarkResult, DeviceInfo, EmulatedDevice, LoadTableRow
from batchwright_worker.api.names import ANNOTATION_EMULATED_DEVICE, KIND_CPU, KIND_EMULATED, LABEL_BENCHMARK_OPT_OUT

BENCHMARKED: Final = "Benchmarked"
AWAITING: Final = "AwaitingBenchmark"
RUNNING: Final = "BenchmarkRunning"
OPTED_OUT: Final = "OptedOut"
NOT_IDLE: Final = "NeverIdle"
FAILED: Final = "BenchmarkFailed"
TIMED_OUT: Final = "BenchmarkTimedOut"
OUT_OF_MEMORY: Final = "BenchmarkOutOfMemory"
NO_IMAGE: Final = "BenchmarkImageNotPullable"
NOT_STARTED: Final = "BenchmarkNotStarted"
KEPT_AWAY: Final = "NotMeasured"
ESTIMATED: Final = "Estimated"

_DEVICES: Final = list[DeviceInfo]
_ROWS: Final = list[LoadTableRow]
_CHECKS: Final = list[SpotCheck]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """One entry of an AcceleratorProfile's `status.processors`, as decisions read it.

    `Processor` of `crds/status_types` is the schema of that entry, where every field is optional.
    """

    kind: str
    product: str = ""
    driver: str = ""
    runtime_image: str = ""
    devices: tuple[DeviceInfo, ...] = ()
    load_table: tuple[LoadTableRow, ...] = ()
    capacity: float | None = None
    """images/s of one device (of a CPU: of all that the node has of it); None: unbenchmarked."""
    slots: int = 0
    """How many of the kind the node has for pods: devices, partitions, or shares of either. 0 on a CPU, whose pods
    share it, and where no node says."""
    slots_per_device: int = 1
    """More than one where pods take turns on a device."""
    scaling: float | None = None
    """What each device does while all of the node's work, as a share of what one does alone; None: not measured."""
    spot_checks: tuple[SpotCheck, ...] = ()
    """Of the drift sentinel, since the benchmark; oldest first."""
    benchmarked_time: str = ""
    reason: str = AWAITING
    message: str = ""
    node_class: str = ""
    """Digest of what nodes of its class have in common; empty: it has no class."""
    estimated_from: str = ""
    """The node whose measurement is taken for this one's; empty: it was measured itself, or not at all."""
    failures: int = 0
    """Benchmarks that failed in a row."""
    retry_time: str = ""
    """RFC 3339: when the next one is due; empty while one is under way."""
    benchmarked_as: str = ""
    """Digest of what was measured (hardware, driver, image, request), whether that worked or not."""
    max_services: int | None = field(init=False, repr=False, compare=False)
    """Concurrent services at the batch size with the most images/s."""

    def __post_init__(self) -> None:
        best = best_row(self)
        object.__setattr__(self, "max_services", best.max_services if best else None)

    @property
    def awaiting(self) -> bool:
        """Its first benchmark is still to come: not placeable yet."""
        return self.capacity is None and self.reason in (AWAITING, RUNNING) and not self.failures

    @property
    def node_capacity(self) -> float | None:
        """images/s of all devices of the node together."""
        if self.capacity is None:
            return None
        devices = max(1.0, (self.slots or len(self.devices)) / self.slots_per_device)
        return self.capacity * devices * (self.scaling if self.scaling is not None and devices > 1 else 1.0)


def best_row(processor: Processor) -> LoadTableRow | None:
    """The row of the load table with the most images/s."""
    return max(processor.load_table, key=lambda row: row.images_per_second, default=None)


def kinds_on(node: Raw) -> tuple[str, ...]:
    """Accelerator kinds that a node offers, `cpu` first, the others by name."""
    return kinds_among(amounts((node.get("status") or {}).get("allocatable")))


def kinds_among(allocatable: Mapping[str, float]) -> tuple[str, ...]:
    """The same, of a node that has so much of each resource."""
    extended = sorted(name for name, count in allocatable.items() if count > 0 and is_processor(name))
    return (KIND_CPU, *extended)


def slots_on(node: Raw, kind: str) -> int:
    """How many pods with one device each the node has room for, were it empty; 0 for a CPU."""
    found = amounts((node.get("status") or {}).get("allocatable")).get(kind, 0.0)
    return 0 if kind == KIND_CPU else int(found)


def slots_per_device(node: Raw, kind: str) -> int | None:
    """Of how many shares a device is offered, as the node's labels (GPU feature discovery) say; None: they do not."""
    return whole_number(label(node, f"{kind.removesuffix(SHARED)}.replicas")) or None


def opted_out(node: Raw) -> bool:
    """Whether the node's label excludes it from benchmarks."""
    return bool((node["metadata"].get("labels") or {}).get(LABEL_BENCHMARK_OPT_OUT) == "true")


def emulated_device(node: Raw) -> EmulatedDevice | None:
    """The emulated accelerator that a node's annotation describes; the default one where it is unreadable."""
    if KIND_EMULATED not in kinds_on(node):
        return None
    text = (node["metadata"].get("annotations") or {}).get(ANNOTATION_EMULATED_DEVICE)
    try:
        return msgspec.json.decode(text, type=EmulatedDevice) if text else EmulatedDevice()
    except msgspec.DecodeError:
        return EmulatedDevice()


def processors_of(profile: Raw | None) -> dict[str, Processor]:
    """The processors in a profile's status, by kind. Unreadable entries are left out."""
    found = ((profile or {}).get("status") or {}).get("processors") or []
    return {each.kind: each for each in map(_parse, found) if each is not None}


def render_entry(processor: Processor) -> Raw:
    """The status entry; empty parts are left out."""
    entry = {
        "kind": processor.kind,
        "product": processor.product,
        "driver": processor.driver,
        "runtimeImage": processor.runtime_image,
        "devices": [_device(each) for each in processor.devices],
        "loadTable": [_row(each) for each in processor.load_table],
        "capacityImagesPerSecond": "" if processor.capacity is None else decimal(processor.capacity),
        "slots": processor.slots or "",
        "slotsPerDevice": processor.slots_per_device if processor.slots_per_device > 1 else "",
        "scaling": "" if processor.scaling is None else f"{processor.scaling:.2f}",
        "nodeImagesPerSecond": "" if processor.node_capacity is None else decimal(processor.node_capacity),
        "spotChecks": [
            {"time": each.time, "imagesPerSecond": decimal(each.images_per_second)} for each in processor.spot_checks
        ],
        "benchmarkedTime": processor.benchmarked_time,
        "reason": processor.reason,
        "message": processor.message,
        "nodeClass": processor.node_class,
        "estimatedFrom": processor.estimated_from,
        "failures": processor.failures or "",
        "retryTime": processor.retry_time,
        "benchmarkedAs": processor.benchmarked_as,
    }
    return {name: value for name, value in entry.items() if value not in ("", [])}


def measured(kind: str, result: BenchmarkResult) -> Processor:
    """The processor that a successful benchmark measured; image, time and digest are for the caller to fill in."""
    return Processor(
        kind=kind,
        product=result.product,
        driver=result.driver,
        devices=tuple(result.devices),
        load_table=tuple(result.load_table),
        capacity=result.capacity_images_per_second,
        scaling=result.scaling,
        reason=BENCHMARKED,
    )


def decimal(value: float) -> str:
    """Images/s with three significant digits at least: 5.43, 54.3, 5430."""
    return f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _device(device: DeviceInfo) -> Raw:
    entry = {"id": device.id, "memoryBytes": device.memory_bytes, "migProfile": device.mig_profile}
    return {name: value for name, value in entry.items() if value != ""}


def _row(row: LoadTableRow) -> Raw:
    return {
        "batchSize": row.batch_size,
        "imagesPerSecond": decimal(row.images_per_second),
        "maxServices": row.max_services,
    }


def _parse(entry: Mapping[str, Any]) -> Processor | None:
    try:
        return _parsed(entry)
    except (KeyError, TypeError, ValueError, msgspec.ValidationError):
        return None


def _parsed(entry: Mapping[str, Any]) -> Processor:
    capacity = entry.get("capacityImagesPerSecond")
    return Processor(
        kind=entry["kind"],
        product=entry.get("product", ""),
        driver=entry.get("driver", ""),
        runtime_image=entry.get("runtimeImage", ""),
        devices=tuple(msgspec.convert(devices, _DEVICES)) if (devices := entry.get("devices")) else (),
        load_table=tuple(msgspec.convert(rows, _ROWS, strict=False)) if (rows := entry.get("loadTable")) else (),
        capacity=None if capacity in (None, "") else float(capacity),
        slots=int(entry.get("slots", 0)),
        slots_per_device=max(1, int(entry.get("slotsPerDevice", 1))),
        scaling=float(entry["scaling"]) if entry.get("scaling") else None,
        spot_checks=tuple(msgspec.convert(checks, _CHECKS, strict=False))
        if (checks := entry.get("spotChecks"))
        else (),
        benchmarked_time=entry.get("benchmarkedTime", ""),
        reason=entry.get("reason", BENCHMARKED if capacity else AWAITING),
        message=entry.get("message", ""),
        node_class=entry.get("nodeClass", ""),
        estimated_from=entry.get("estimatedFrom", ""),
        failures=int(entry.get("failures", 0)),
        retry_time=entry.get("retryTime", ""),
        benchmarked_as=entry.get("benchmarkedAs", ""),
    )
