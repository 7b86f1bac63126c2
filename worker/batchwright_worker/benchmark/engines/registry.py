"""What the benchmark measures with: one engine per kind of processor."""

from __future__ import annotations

from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED, KIND_NVIDIA
from batchwright_worker.benchmark.engines.base import BenchmarkEngine, BenchmarkError


def engine_of(kind: str) -> BenchmarkEngine:
    """The engine for a kind of accelerator, ready to run. Raises BenchmarkError."""
    if kind == KIND_CPU:
        from batchwright_worker.benchmark.engines.onnx import OnnxEngine

        return OnnxEngine()
    if kind == KIND_EMULATED:
        from batchwright_worker.benchmark.engines.emulated import EmulatedEngine

        return EmulatedEngine.from_environment()
    if kind == KIND_NVIDIA or kind.startswith("nvidia.com/mig-"):
        from batchwright_worker.benchmark.engines.torch import TorchEngine

        return TorchEngine.on_cuda()
    raise BenchmarkError(
        f"there is no benchmark for {kind}; its processors are placed by utilization alone. "
        f"Kinds with one: {KIND_CPU}, {KIND_NVIDIA} (and MIG instances), {KIND_EMULATED}"
    )
