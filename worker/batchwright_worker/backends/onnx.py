"""ONNX models on onnxruntime, with the execution provider of the accelerator's kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnxruntime as ort

from batchwright_worker.backends.base import Host, LoadError, OutOfDeviceMemoryError, accelerator_for
from batchwright_worker.inference.requests import Array
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.ipc.messages import ModelSource

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(bfloat16)": "BF16",
    "tensor(string)": "BYTES",
}
_BFLOAT16: Final = 16
"""onnx.TensorProto.BFLOAT16."""


class OnnxModel:
    """A session of onnxruntime. Its specs are whole: which dimension is the batch, the file does not say."""

    def __init__(self, session: Any, name: str) -> None:
        self._session = session
        self.inputs: Sequence[TensorSpec] = [whole_spec_of(argument, name) for argument in session.get_inputs()]
        self.outputs: Sequence[TensorSpec] = [whole_spec_of(argument, name) for argument in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """As LoadedModel.run."""
        return self._run(inputs)

    def close(self) -> None:
        """The arena goes with the session."""
        self._session = None

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            if any(spec.datatype == "BF16" for spec in (*self.inputs, *self.outputs)):
                return self._run_bfloat16(inputs)
            values = self._session.run(None, as_text(inputs))
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfDeviceMemoryError(str(error)) from error
            raise
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def _run_bfloat16(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """onnxruntime has no numpy type for bfloat16, so such values go in and out as their 16 bits."""
        binding = self._session.io_binding()
        for spec in self.inputs:
            binding.bind_ortvalue_input(spec.name, ort_value(spec, inputs[spec.name]))
        for spec in self.outputs:
            binding.bind_output(spec.name)
        self._session.run_with_iobinding(binding)
        values = {}
        for spec, value in zip(self.outputs, binding.get_outputs(), strict=True):
            values[spec.name] = array_of(spec, value)
        return values


class _Bits:
    """The 16 bits of each value of a bfloat16 tensor on the CPU, by numpy's array interface: `OrtValue.numpy` and
    `numpy.from_dlpack` do not take the type. The array's base is this object, which keeps the tensor's memory."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.__array_interface__ = {
            "version": 3,
            "typestr": "<u2",
            "shape": tuple(value.shape()),
            "data": (value.data_ptr(), True),
        }


def load(source: ModelSource, host: Host) -> OnnxModel:
    """A session with the host's thread count; idle threads sleep (spinning would burn the pod's CPU quota)."""
    if not Path(source.path).is_file():
        raise LoadError(f"there is no file at {source.path}; check the artifact's uri")
    options = ort.SessionOptions()
    options.intra_op_num_threads = host.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = _providers(host)
    try:
        session = ort.InferenceSession(source.path, options, providers=wanted, enable_fallback=0)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfDeviceMemoryError(str(error)) from error
        raise LoadError(f"{source.path} is no usable ONNX model: {error}") from error
    if session.get_providers()[0] != wanted[0]:  # onnxruntime would serve from the CPU, and say so to its log alone
        raise LoadError(
            f"onnxruntime cannot use {wanted[0]} here: its libraries or the device's driver are missing or too old; "
            "the runtime's log says which (images/worker-cuda.Dockerfile has the libraries)"
        )
    return OnnxModel(session, source.name)


def _providers(host: Host) -> list[str]:
    """The accelerator's first, so that nodes run on the CPU only where it has no kernel for them."""
    accelerator = accelerator_for(host)
    if not accelerator.onnx_provider:
        return ["CPUExecutionProvider"]
    if accelerator.onnx_provider not in ort.get_available_providers():
        raise LoadError(
            f"this image's onnxruntime has no {accelerator.onnx_provider}; use an image with {accelerator.onnx_package}"
        )
    # CUDA's libraries are in packages of their own, where no loader looks.
    ort.preload_dlls()
    return [accelerator.onnx_provider, "CPUExecutionProvider"]


def whole_spec_of(argument: Any, model: str) -> TensorSpec:
    """With its whole shape."""
    datatype = _DATATYPES.get(argument.type)
    if datatype is None:
        raise LoadError(
            f"model {model!r}: {argument.name!r} is a {argument.type}, which the Open Inference Protocol cannot carry; "
            "export the model with plain tensors in its place"
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in argument.shape)
    return TensorSpec(name=argument.name, datatype=datatype, shape=shape, batched=False)


def spec_of(argument: Any, model: str) -> TensorSpec:
    """Per row. Raises LoadError for a tensor without dimensions."""
    spec = whole_spec_of(argument, model)
    if not spec.shape:
        raise LoadError(f"model {model!r}: {argument.name!r} has no dimensions; the first must be the batch")
    return TensorSpec(name=spec.name, datatype=spec.datatype, shape=spec.shape[1:])


def as_text(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """BYTES are UTF-8 text to ONNX; elements that are not raise UnicodeDecodeError, which names the byte."""
    return {name: _decoded(array) if array.dtype == object else array for name, array in inputs.items()}


def _decoded(array: Array) -> Array:
    words = [bytes(element).decode() for element in array.reshape(-1)]
    return np.array(words, dtype=object).reshape(array.shape)


def ort_value(spec: TensorSpec, array: Array) -> Any:
    if spec.datatype == "BF16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array).view(np.uint16), _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def array_of(spec: TensorSpec, value: Any) -> Array:
    """An output as numpy holds it."""
    if spec.datatype == "BF16":
        return np.asarray(_Bits(value)).view(ml_dtypes.bfloat16)
    array: Array = value.numpy()
    return array


def is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("failed to allocate memory", "out of memory", "bad_alloc", "bad allocation")
    )
