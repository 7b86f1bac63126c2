"""The model behind a peer: the very emulated device of Batchwright's runtime, or an ONNX network on one CPU thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

ENV_MODEL = "BENCH_PEER_MODEL"

Forward = Callable[[Sequence[bytes]], list[bytes]]
"""Bodies of one batch (raw little-endian FP32) to answers (raw), in the same order."""


class PeerModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer serves, as JSON in the environment. `onnx` empty: the emulated device."""

    name: str
    shape: list[int]
    fixed_microseconds: int = 0
    per_row_microseconds: int = 0
    onnx: str = ""
    max_size: int = 32
    max_wait_ms: int = 1
    """Mosec's own timer; the plain batcher has none."""


def described() -> PeerModel:
    """From the environment."""
    return msgspec.json.decode(os.environ[ENV_MODEL], type=PeerModel)


def forward_of(model: PeerModel) -> Forward:
    """Loads the model."""
    run = _network(model) if model.onnx else _emulated(model)

    def forward(bodies: Sequence[bytes]) -> list[bytes]:
        rows = np.frombuffer(b"".join(bodies), np.float32).reshape(len(bodies), *model.shape)
        return [row.tobytes() for row in run(rows)]

    return forward


def _emulated(model: PeerModel) -> Callable[[NDArray[Any]], NDArray[Any]]:
    from batchwright_worker.backends import emulated
    from batchwright_worker.backends.base import Host
    from batchwright_worker.host.memory import EmulatedMemory
    from batchwright_worker.inference.runtime import TensorSpec
    from batchwright_worker.ipc.messages import EmulatedSource, ModelSource

    source = ModelSource(
        name=model.name,
        format="emulated",
        path="",
        inputs=[TensorSpec(name="x", datatype="FP32", shape=tuple(model.shape))],
        outputs=[],
        emulated=EmulatedSource(
            fixed_microseconds=model.fixed_microseconds,
            per_row_microseconds=model.per_row_microseconds,
            weights_bytes=0,
            bytes_per_row=0,
            load_milliseconds=0,
        ),
    )
    device = emulated.load(source, Host(kind="cpu", threads=1, emulated_memory=EmulatedMemory(0)))
    return lambda rows: device.run({"x": rows}, len(rows))["argmax"]


def _network(model: PeerModel) -> Callable[[NDArray[Any]], NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.onnx, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda rows: np.asarray(session.run(None, {name: rows})[0])
