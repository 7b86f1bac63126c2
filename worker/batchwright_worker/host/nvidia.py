"""Memory of an NVIDIA GPU, by NVML."""

from __future__ import annotations

import os

from batchwright_worker.api.names import ENV_MEMORY_BUDGET


class NvidiaMeter:
    """Memory of the first visible GPU, from NVML; the peak is sampled when it is asked for."""

    def __init__(self, budget_bytes: int) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        visible = os.environ.get("NVIDIA_VISIBLE_DEVICES", "").split(",")[0]
        named = visible.startswith(("GPU-", "MIG-"))
        self._device = pynvml.nvmlDeviceGetHandleByUUID(visible) if named else pynvml.nvmlDeviceGetHandleByIndex(0)
        total = int(pynvml.nvmlDeviceGetMemoryInfo(self._device).total)
        self.total_bytes = min(budget_bytes, total) if budget_bytes else total

    @classmethod
    def visible(cls) -> NvidiaMeter:
        """Within the budget of the environment. The cgroup's limit is for host memory, so it does not count here."""
        return cls(int(os.environ.get(ENV_MEMORY_BUDGET, "") or 0))

    def used(self) -> int:
        """Used on the device, by any process: what is used cannot be allocated."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._device).used)

    def growth(self) -> int:
        """Not known without asking the driver."""
        return 0

    def start_peak(self) -> None:
        """NVML has no high-water mark; the libraries' allocators keep what a batch took until they are trimmed."""

    def peak(self) -> int:
        """As `used`."""
        return self.used()
