"""The reference model in torch on one CUDA device (or on any torch device, to compare libraries)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from batchwright_worker.api.accelerators import NVIDIA
from batchwright_worker.api.messages import BenchmarkResult, DeviceInfo
from batchwright_worker.benchmark import reference_model as resnet
from batchwright_worker.benchmark.engines.base import BatchTooLarge, BenchmarkError, timed_together
from batchwright_worker.benchmark.reference_model import IMAGE_SHAPE, Conv

_HEADROOM = 0.9
"""Share of the free memory that a prediction may use."""


class TensorOps:
    """Operations on tensors."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        self._weights = weights

    def conv(self, x: Any, conv: Conv) -> Any:
        weight, bias = self._weights[f"{conv.name}.weight"], self._weights[f"{conv.name}.bias"]
        return functional.conv2d(x, weight, bias, stride=conv.stride, padding=conv.padding)

    def relu(self, x: Any) -> Any:
        return functional.relu(x)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def max_pool(self, x: Any) -> Any:
        return functional.max_pool2d(x, 3, stride=2, padding=1)

    def mean(self, x: Any) -> Any:
        return x.mean(dim=(2, 3))

    def linear(self, x: Any, name: str, inputs: int, outputs: int) -> Any:
        return torch.addmm(self._weights[f"{name}.bias"], x, self._weights[f"{name}.weight"])


class TorchEngine:
    """Implements Engine. Services are threads with a CUDA stream each, over one copy of the weights."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._weights = {name: torch.from_numpy(array).to(device) for name, array in resnet.parameters()}
        self._weight_bytes = sum(each.nbytes for each in self._weights.values())
        self._ops = TensorOps(self._weights)
        self._images = torch.empty((0, *IMAGE_SHAPE), device=device)
        self._per_image_bytes = 0.0

    def about(self) -> BenchmarkResult:
        """From CUDA and NVML."""
        if self._device.type != "cuda":
            return BenchmarkResult(kind=str(self._device), runtime_version=f"torch {torch.__version__}")
        properties = torch.cuda.get_device_properties(self._device)
        memory_bytes = int(properties.total_memory)
        return BenchmarkResult(
            kind=NVIDIA.kind,
            product=properties.name,
            driver=_driver(),
            runtime_version=f"torch {torch.__version__}",
            devices=[DeviceInfo(id=each, memory_bytes=memory_bytes) for each in _visible()],
        )

    def fits(self, batch: int, services: int) -> bool:
        """By the peak of the batches so far, against what is free on the device."""
        if self._device.type != "cuda":
            return batch * services <= 64
        free, _ = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        wanted = services * (batch * self._per_image_bytes + (self._weight_bytes if services > 1 else 0))
        return bool(wanted <= (free + reserved) * _HEADROOM)

    def holds(self, batch: int, services: int) -> bool:
        """What fits is what the device holds."""
        return self.fits(batch, services)

    def run(self, batch: int, runs: int) -> float:
        """One service, synchronised after every run, as a batch that is answered."""
        images = self._batch(batch)
        self._reset_peak()
        start = time.perf_counter()
        try:
            self._work(images, runs)
        except torch.OutOfMemoryError as error:
            raise BatchTooLarge(str(error)) from error
        elapsed = time.perf_counter() - start
        self._per_image_bytes = max(self._per_image_bytes if batch > 1 else 0.0, self._peak() / batch)
        return elapsed

    def run_services(self, batch: int, services: int, runs: int) -> float:
        """Threads with a stream each."""
        images = self._batch(batch)

        def work() -> None:
            if self._device.type != "cuda":
                self._work(images, runs)
                return
            with torch.cuda.stream(torch.cuda.Stream(self._device)):
                self._work(images, runs)

        try:
            return timed_together(services, work)
        except torch.OutOfMemoryError as error:
            raise BatchTooLarge(str(error)) from error

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's answer, to compare libraries with."""
        with torch.inference_mode():
            answer: NDArray[np.float32] = (
                resnet.forward(self._ops, torch.from_numpy(images).to(self._device)).cpu().numpy()
            )
        return answer

    def _work(self, images: Any, runs: int) -> None:
        with torch.inference_mode():
            for _ in range(runs):
                resnet.forward(self._ops, images)
                if self._device.type == "cuda":
                    torch.cuda.current_stream(self._device).synchronize()

    def _batch(self, batch: int) -> Any:
        if len(self._images) != batch:
            self._images = torch.from_numpy(resnet.images(batch)).to(self._device)
        return self._images

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def _peak(self) -> float:
        if self._device.type != "cuda":
            return 0.0
        return float(max(0, torch.cuda.max_memory_allocated(self._device) - self._weight_bytes))


def engine() -> TorchEngine:
    """On the first CUDA device that this container sees. Raises BenchmarkError."""
    if not torch.cuda.is_available():
        raise BenchmarkError(
            f"torch sees no CUDA device; request {NVIDIA.kind}, and use a worker image with the CUDA build of torch"
        )
    return TorchEngine(torch.device("cuda", 0))


def _visible() -> list[str]:
    """The devices of this container, as CUDA_VISIBLE_DEVICES takes them. CUDA itself shows one MIG instance at most; a
    device that is shared may be listed twice."""
    listed = os.environ.get("NVIDIA_VISIBLE_DEVICES", "").split(",")
    if named := [each for each in listed if each.startswith(("GPU-", "MIG-"))]:
        return list(dict.fromkeys(named))
    return [f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())]


def _driver() -> str:
    """The driver's version by NVML; empty where it does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return ""
