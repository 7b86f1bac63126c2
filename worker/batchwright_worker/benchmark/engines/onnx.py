"""The reference model in onnxruntime on the CPU: the graph by onnx.helper, weights handed over without a copy."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import psutil
from numpy.typing import NDArray
from onnx import TensorProto, helper

from batchwright_worker.api.messages import BenchmarkResult
from batchwright_worker.api.names import KIND_CPU
from batchwright_worker.benchmark import reference_model as resnet
from batchwright_worker.benchmark.engines.base import timed_together
from batchwright_worker.benchmark.reference_model import CLASSES, IMAGE_SHAPE, Conv
from batchwright_worker.host.memory import memory_budget_bytes
from batchwright_worker.host.threads import thread_count

MEMORY_BYTES: Final = 600 << 20
"""The benchmark keeps itself below this: it shares the node with everybody."""
_OPSET: Final = 17


class GraphOps:
    """Operations that append nodes; a value is the name of an edge."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def conv(self, x: str, conv: Conv) -> str:
        weights = [f"{conv.name}.weight", f"{conv.name}.bias"]
        return self._node("Conv", [x, *weights], kernel_shape=[conv.kernel] * 2, strides=[conv.stride] * 2,
                          pads=[conv.padding] * 4)  # fmt: skip

    def relu(self, x: str) -> str:
        return self._node("Relu", [x])

    def add(self, x: str, y: str) -> str:
        return self._node("Add", [x, y])

    def max_pool(self, x: str) -> str:
        return self._node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def mean(self, x: str) -> str:
        return self._node("Flatten", [self._node("GlobalAveragePool", [x])], axis=1)

    def linear(self, x: str, name: str, inputs: int, outputs: int) -> str:
        return self._node("Gemm", [x, f"{name}.weight", f"{name}.bias"])

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name


def build(weights: dict[str, NDArray[np.float32]]) -> bytes:
    """The model as an ONNX file whose weights are external: the session gets them as they are in memory."""
    ops = GraphOps()
    logits = resnet.forward(ops, "images")
    graph = helper.make_graph(
        ops.nodes,
        "resnet50",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *IMAGE_SHAPE])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["n", CLASSES])],
        initializer=[_external(name, array) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
    return bytes(model.SerializeToString())


def _external(name: str, array: NDArray[np.float32]) -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


class OnnxEngine:
    """Implements Engine. All services share one session; what a further service would hold for itself is counted."""

    def __init__(self, threads: int | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._processor_bytes = memory_budget_bytes() or psutil.virtual_memory().available
        self._process = psutil.Process(os.getpid())
        weights = dict(resnet.parameters())
        self._weight_bytes = sum(array.nbytes for array in weights.values())
        self._session = _session(weights, threads or thread_count())
        del weights
        self._input = np.empty((0, *IMAGE_SHAPE), np.float32)
        self._base_bytes = self._process.memory_info().rss
        self._per_image_bytes = 0.0

    def about(self) -> BenchmarkResult:
        """The CPU's model; there is no driver."""
        return BenchmarkResult(kind=KIND_CPU, product=_cpu_model(), runtime_version=f"onnxruntime {ort.__version__}")

    def fits(self, batch: int, services: int) -> bool:
        """By what an image took so far: this process stays modest."""
        modest = self._base_bytes + services * batch * self._per_image_bytes <= self._memory_bytes
        return modest and self.holds(batch, services)

    def holds(self, batch: int, services: int) -> bool:
        """Services have weights of their own."""
        each = self._weight_bytes + batch * self._per_image_bytes
        return services * each <= self._processor_bytes

    def run(self, batch: int, runs: int) -> float:
        """One service."""
        images = self._images(batch)
        start = time.perf_counter()
        for _ in range(runs):
            self._session.run(None, {"images": images})
        elapsed = time.perf_counter() - start
        held = self._process.memory_info().rss - self._base_bytes
        self._per_image_bytes = max(self._per_image_bytes if batch > 1 else 0.0, held / batch)
        return elapsed

    def run_services(self, batch: int, services: int, runs: int) -> float:
        """Threads that run the session at once, as the services of a processor would."""
        images = self._images(batch)

        def work() -> None:
            for _ in range(runs):
                self._session.run(None, {"images": images})

        return timed_together(services, work)

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """The model's answer, to compare libraries with."""
        answer: NDArray[np.float32] = self._session.run(None, {"images": images})[0]
        return answer

    def _images(self, batch: int) -> NDArray[np.float32]:
        if len(self._input) != batch:
            self._input = resnet.images(batch)
        return self._input


def engine() -> OnnxEngine:
    """On as many threads as the CPU runtime would use."""
    return OnnxEngine()


def _session(weights: dict[str, NDArray[np.float32]], threads: int) -> ort.InferenceSession:
    """With the options of the CPU runtime: so many threads, which sleep when idle."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
    model = build(weights)
    options.add_external_initializers(list(values), list(values.values()))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, "")
