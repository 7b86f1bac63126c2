"""What the benchmark measures with: one engine per kind of processor."""

from __future__ import annotations

import importlib

from batchwright_worker.api.accelerators import VENDORS, vendor_of
from batchwright_worker.api.names import KIND_CPU
from batchwright_worker.benchmark.engines.base import BenchmarkEngine, BenchmarkError


def engine_of(kind: str) -> BenchmarkEngine:
    """The engine for a kind of accelerator, ready to run. Raises BenchmarkError."""
    vendor = vendor_of(kind)
    module = "onnx" if kind == KIND_CPU else vendor.benchmark_engine if vendor else ""
    if not module:
        kinds = [KIND_CPU, *(each.kind for each in VENDORS if each.benchmark_engine)]
        raise BenchmarkError(
            f"there is no benchmark for {kind}; its processors are placed by utilization alone. "
            f"Kinds with one: {', '.join(kinds)}, and partitions of their devices"
        )
    engine: BenchmarkEngine = importlib.import_module(f"batchwright_worker.benchmark.engines.{module}").engine()
    return engine
