"""Accelerator vendors, one row each: their kinds, and who reads and measures their devices.

A new vendor is a row here; if models are to run on its devices, also one in `host/accelerators` (memory, libraries).
Its utilization comes from an exporter's series or from a reader in `agent/`, its load table from an engine in
`benchmark/engines/` (tests/house/test_adding_a_vendor.py does it all).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from batchwright_worker.api.names import KIND_EMULATED

SHARED: Final = ".shared"
"""Ends the name of a kind whose devices several pods share by turns, where a device plugin renames it so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyMetric:
    """A metric that is a share of the time once it is divided by `full`."""

    name: str
    full: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMetrics:
    """Metrics whose share is used / total, or used / (used + free); one of `total` and `free` is empty."""

    used: str
    total: str = ""
    free: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exporter:
    """The series of a vendor's Prometheus exporter. Of several metrics the first one that a device has counts."""

    busy: tuple[BusyMetric, ...]
    memory: tuple[MemoryMetrics, ...]
    device: tuple[str, ...]
    """Labels that together name a device."""
    partition: str = ""
    """Label with the profile of a partition; see `Vendor.partitions`."""

    @property
    def names(self) -> frozenset[str]:
        """All metrics of interest."""
        memory = {name for each in self.memory for name in (each.used, each.total, each.free) if name}
        return frozenset(memory | {each.name for each in self.busy})


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """A vendor of accelerators; a kind is the name of an extended resource that nodes offer."""

    name: str
    prefix: str
    """Of all its kinds."""
    kind: str = ""
    """Of its whole devices; empty: only utilization is known of this vendor, for whatever kinds a node offers."""
    partitions: str = ""
    """Prefix of the kinds that are partitions of a device, the profile's name follows; empty: there are none."""
    kinds: tuple[str, ...] = ()
    """Patterns (`*`) of its further kinds. What no pattern names is no processor: a network card, a monitor."""
    product_labels: tuple[str, ...] = ()
    """Labels of nodes with product, driver and partitioning: a new value asks for a new benchmark."""
    exporter: Exporter | None = None
    agent_source: str = ""
    """Module in `agent/` with `find_source() -> ReadingSource | None`."""
    benchmark_engine: str = ""
    """Module in `benchmark/engines/` with `engine() -> BenchmarkEngine`; empty: there is no benchmark."""
    gpu: bool = False
    """Model configuration and statistics name its devices GPUs, for clients of Triton."""

    def is_partition(self, kind: str) -> bool:
        """A part of a device, not a whole one."""
        return bool(self.partitions) and kind.startswith(self.partitions)

    def offers(self, kind: str) -> bool:
        """Its devices, parts of them, or shares of either."""
        whole = kind.removesuffix(SHARED)
        named = any(fnmatchcase(whole, each) for each in (self.kind, *self.kinds) if each)
        return named or self.is_partition(whole)


NVIDIA: Final = Vendor(
    name="NVIDIA",
    prefix="nvidia.com/",
    kind="nvidia.com/gpu",
    partitions="nvidia.com/mig-",
    product_labels=("nvidia.com/gpu.product", "nvidia.com/cuda.driver-version.full", "nvidia.com/mig.config"),
    exporter=Exporter(  # DCGM
        busy=(BusyMetric(name="DCGM_FI_DEV_GPU_UTIL", full=100), BusyMetric(name="DCGM_FI_PROF_GR_ENGINE_ACTIVE")),
        memory=(MemoryMetrics(used="DCGM_FI_DEV_FB_USED", free="DCGM_FI_DEV_FB_FREE"),),
        device=("UUID", "GPU_I_ID"),
        partition="GPU_I_PROFILE",
    ),
    agent_source="nvidia",
    benchmark_engine="torch",
    gpu=True,
)
VENDORS: Final = (
    NVIDIA,
    Vendor(
        name="AMD",
        prefix="amd.com/",
        kinds=("amd.com/gpu", "amd.com/*_nps*"),
        product_labels=("amd.com/gpu.product-name",),
        exporter=Exporter(
            busy=(BusyMetric(name="gpu_gfx_activity", full=100), BusyMetric(name="amd_gpu_gfx_activity", full=100)),
            memory=(
                MemoryMetrics(used="gpu_used_vram", total="gpu_total_vram"),
                MemoryMetrics(used="amd_gpu_used_vram", total="amd_gpu_total_vram"),
            ),
            device=("gpu_uuid", "serial_number", "gpu_id", "gpu_partition_id"),
        ),
    ),
    Vendor(
        name="Ascend",
        prefix="huawei.com/",
        kinds=("huawei.com/Ascend*", "huawei.com/npu"),
        exporter=Exporter(
            busy=(BusyMetric(name="npu_chip_info_utilization", full=100),),
            memory=(
                MemoryMetrics(used="npu_chip_info_hbm_used_memory", total="npu_chip_info_hbm_total_memory"),
                MemoryMetrics(used="npu_chip_info_used_memory", total="npu_chip_info_total_memory"),
            ),
            device=("id",),
        ),
    ),
    Vendor(name="Intel", prefix="gpu.intel.com/", kinds=("gpu.intel.com/i915", "gpu.intel.com/xe")),
    Vendor(name="Habana", prefix="habana.ai/", kinds=("habana.ai/gaudi*",)),
    Vendor(name="Google", prefix="google.com/", kinds=("google.com/tpu",)),
    Vendor(name="AWS", prefix="aws.amazon.com/", kinds=("aws.amazon.com/neuron*",)),
    Vendor(name="emulated", prefix=KIND_EMULATED, kind=KIND_EMULATED, benchmark_engine="emulated"),
)


@lru_cache(maxsize=1024)
def is_processor(kind: str) -> bool:
    """Whether an extended resource is a kind of accelerator; others (KVM, network cards, ..) are not."""
    return any(each.offers(kind) for each in VENDORS)


def vendor_of(kind: str) -> Vendor | None:
    """The vendor whose whole devices, partitions of them, or shares of either, this kind is."""
    whole = kind.removesuffix(SHARED)
    return next((each for each in VENDORS if (each.kind and whole == each.kind) or each.is_partition(whole)), None)


def offered_as(kind: str, offered: Collection[str]) -> str | None:
    """Under which of these kinds a node offers devices that report `kind`: that one, or a share of it, or (partitions
    that count as whole devices, MIG strategy `single`) the vendor's own. None: under none of them."""
    vendor = vendor_of(kind)
    names = (kind, vendor.kind) if vendor and vendor.kind else (kind,)
    return next((name for each in names for name in (each, each + SHARED) if name in offered), None)


def is_gpu(kind: str) -> bool:
    """To clients of Triton, which know CPUs and GPUs."""
    vendor = vendor_of(kind)
    return vendor is not None and vendor.gpu
