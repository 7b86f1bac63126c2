"""Memory as it is measured: what this process holds, its peak, and returning what was freed to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from batchwright_worker.api.names import ENV_EMULATED_DEVICE, ENV_MEMORY_BUDGET

_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_CGROUP_MAX = Path("/sys/fs/cgroup/memory.max")
_CGROUP1_LIMIT = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP1_UNLIMITED = 1 << 60
"""Version 1 writes a limit that is none as a number near 2**63."""


@dataclass(slots=True)
class EmulatedMemory:
    """Emulated device memory: what loaded models and the running batch are said to hold. Thread-safe: a load may run
    while a batch does."""

    total_bytes: int
    used_bytes: int = 0
    peak_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def allocate(self, size: int) -> bool:
        """Count `size` bytes as used; False where they do not fit (total_bytes 0: everything fits)."""
        with self._lock:
            if self.total_bytes and self.used_bytes + size > self.total_bytes:
                return False
            self.used_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
            return True

    def free(self, size: int) -> None:
        """Count them as free."""
        with self._lock:
            self.used_bytes -= size


class Meter(Protocol):
    """Memory of one device; `total_bytes` 0: nothing bounds it."""

    total_bytes: int

    def used(self) -> int:
        """Bytes that models and batches occupy now."""

    def growth(self) -> int:
        """By how much `used` has grown since it was asked last, where that costs next to nothing; else 0."""

    def start_peak(self) -> None:
        """Forget the peak so far."""

    def peak(self) -> int:
        """Highest `used` since start_peak."""


class HostMeter:
    """Resident memory of this process above what was resident when the meter was made; shared memory does not count."""

    def __init__(self, budget_bytes: int) -> None:
        # What is resident before the first model (interpreter, libraries) is no model's, so it is off the budget too.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._anonymous = 0
        self._baseline = self._resident()["VmRSS"]
        self.total_bytes = max(0, budget_bytes - self._baseline)

    def used(self) -> int:
        """Resident set without shared memory, above the baseline."""
        self._anonymous = self._anonymous_now()
        return max(0, self._resident()["VmRSS"] - self._baseline)

    def start_peak(self) -> None:
        """Resets the kernel's high-water mark (proc(5), clear_refs, 5)."""
        _CLEAR.write_text("5")

    def peak(self) -> int:
        """The kernel's high-water mark above the baseline."""
        return max(0, self._resident()["VmHWM"] - self._baseline)

    def growth(self) -> int:
        """Of memory that is no file's: one read of a few numbers, a fiftieth of what `used` costs."""
        return self._anonymous_now() - self._anonymous

    def _anonymous_now(self) -> int:
        _, resident, shared, *_ = os.pread(self._statm, 128, 0).split()
        return (int(resident) - int(shared)) * _PAGE

    @staticmethod
    def _resident() -> dict[str, int]:
        values = {"VmRSS": 0, "VmHWM": 0, "RssShmem": 0}
        for line in _STATUS.read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in values:
                values[name] = int(rest.split()[0]) << 10
        return {"VmRSS": values["VmRSS"] - values["RssShmem"], "VmHWM": values["VmHWM"] - values["RssShmem"]}


class EmulatedMeter:
    """Memory of the emulated device."""

    def __init__(self, emulated_memory: EmulatedMemory) -> None:
        self._memory = emulated_memory
        self.total_bytes = emulated_memory.total_bytes

    def used(self) -> int:
        """As allocated."""
        return self._memory.used_bytes

    def growth(self) -> int:
        """Its books are exact, whoever asks when."""
        return 0

    def start_peak(self) -> None:
        """Forget the peak so far."""
        self._memory.peak_bytes = self._memory.used_bytes

    def peak(self) -> int:
        """The most that was allocated."""
        return self._memory.peak_bytes


def memory_budget_bytes() -> int:
    """The budget in the environment, else the cgroup's limit, else 0."""
    given = os.environ.get(ENV_MEMORY_BUDGET, "")
    if given:
        return int(given)
    return container_limit_bytes()


def container_limit_bytes() -> int:
    """The memory limit of this process's cgroup (v2 or v1), 0 where there is none."""
    for file in (_CGROUP_MAX, _CGROUP1_LIMIT):
        try:
            limit = file.read_text().strip()
        except OSError:
            continue
        return 0 if limit == "max" or int(limit) >= _CGROUP1_UNLIMITED else int(limit)
    return 0


def machine_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def emulated_memory_bytes() -> int:
    """Memory of the emulated device: the budget where one is given, else what the device has."""
    import msgspec

    from batchwright_worker.api.messages import EmulatedDevice

    budget = os.environ.get(ENV_MEMORY_BUDGET, "")
    described = os.environ.get(ENV_EMULATED_DEVICE, "")
    device = msgspec.json.decode(described, type=EmulatedDevice) if described else EmulatedDevice()
    return min(int(budget), device.memory_bytes) if budget else device.memory_bytes


def freeze_objects() -> None:
    """Exempts all present objects (modules, settings), which stay permanently, from garbage collection. With torch
    imported that saves 45 ms in every `release_memory`, and in every pause that the interpreter makes by itself."""
    gc.collect()
    gc.freeze()


def release_memory() -> None:
    """Return freed memory to the system: collect cycles, then trim the CUDA allocator and the C heap."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
