"""What Python models of Triton import as `triton_python_backend_utils`: tensors, requests, responses, types, the log.

Names and signatures are those of Triton's python_backend. What needs the rest of Triton raises TritonModelException
with a sentence: requests to other models (BLS), decoupled responses, custom metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np

from batchwright_worker.inference.requests import Array
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.datatypes import decode_bytes, encode_bytes, name_of, numpy_of

_LOG = logging.getLogger("triton_python_backend_utils")


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    """What a model raises, or what cannot be had here."""


class TritonError:
    """Why a request has no answer."""

    UNKNOWN: ClassVar = 0
    INTERNAL: ClassVar = 1
    NOT_FOUND: ClassVar = 2
    INVALID_ARG: ClassVar = 3
    UNAVAILABLE: ClassVar = 4
    UNSUPPORTED: ClassVar = 5
    ALREADY_EXISTS: ClassVar = 6
    CANCELLED: ClassVar = 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        """What is wrong."""
        return self._message

    def code(self) -> int:
        """One of the class's."""
        return self._code


class Tensor:
    """A named array, by the name that Triton has for it; that of `api/model` is what a manifest declares of one."""

    def __init__(self, name: str, numpy_array: Array) -> None:
        self._name = name
        self._array = numpy_array

    def name(self) -> str:
        """Of the input or output."""
        return self._name

    def as_numpy(self) -> Array:
        """The array; of BYTES, objects."""
        return self._array

    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self._array.shape)

    def triton_dtype(self) -> int:
        """Number of the type in the model configuration."""
        return numpy_to_triton_type(self._array.dtype)

    def is_cpu(self) -> bool:
        """Always: what models are given lies in host memory."""
        return True

    def to_dlpack(self) -> Any:
        """A capsule."""
        return self._array.__dlpack__()

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """Of a tensor of another library; on a GPU it is copied to the host."""
        if hasattr(tensor, "detach"):
            return Tensor(name, tensor.detach().cpu().numpy())
        return Tensor(name, np.from_dlpack(tensor))


class InferenceRequest:
    """What a model is asked."""

    def __init__(
        self,
        inputs: Sequence[Tensor] = (),
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
        request_id: str = "",
        **_more: Any,
    ) -> None:
        self._inputs = list(inputs)
        self._wanted = list(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._request_id = request_id

    def inputs(self) -> list[Tensor]:
        """All of them."""
        return self._inputs

    def requested_output_names(self) -> list[str]:
        """All outputs: rows of callers who want different ones share a request."""
        return self._wanted

    def model_name(self) -> str:
        """The model that is asked."""
        return self._model_name

    def model_version(self) -> int:
        """-1: the one that is served."""
        return self._model_version

    def request_id(self) -> str:
        """Empty: rows of several callers share a request."""
        return self._request_id

    def correlation_id(self) -> int:
        """0: there are no sequences."""
        return 0

    def flags(self) -> int:
        """0: there are no sequences."""
        return 0

    def timeout(self) -> int:
        """0: deadlines are watched before a request gets here."""
        return 0

    def parameters(self) -> str:
        """None, as JSON."""
        return "{}"

    def is_cancelled(self) -> bool:
        """Never: a batch goes on without its caller."""
        return False

    def exec(self, decoupled: bool = False) -> NoReturn:
        """Requests to other models."""
        _not_served("requests from one model to another (BLS): let the client call both, or an InferenceJob")

    def async_exec(self, decoupled: bool = False) -> NoReturn:
        """As `exec`."""
        self.exec(decoupled)

    def get_response_sender(self) -> NoReturn:
        """Decoupled responses."""
        _not_served("decoupled responses: return one response for each request")


class InferenceResponse:
    """What a model answers."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | str | None = None) -> None:
        self._outputs = list(output_tensors)
        self._error = TritonError(error) if isinstance(error, str) else error

    def output_tensors(self) -> list[Tensor]:
        """All of them."""
        return self._outputs

    def has_error(self) -> bool:
        """Is there no answer?"""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Why not."""
        return self._error


class Logger:
    """The runtime's log."""

    INFO: ClassVar = "INFO"
    WARNING: ClassVar = "WARNING"
    ERROR: ClassVar = "ERROR"
    VERBOSE: ClassVar = "VERBOSE"

    @staticmethod
    def log(message: str, level: str = INFO) -> None:
        """At one of the class's levels."""
        _LOG.log(logging.DEBUG if level == Logger.VERBOSE else logging.getLevelNamesMapping()[level], "%s", message)

    @staticmethod
    def log_info(message: str) -> None:
        _LOG.info("%s", message)

    @staticmethod
    def log_warn(message: str) -> None:
        _LOG.warning("%s", message)

    @staticmethod
    def log_error(message: str) -> None:
        _LOG.error("%s", message)

    @staticmethod
    def log_verbose(message: str) -> None:
        _LOG.debug("%s", message)


class MetricFamily:
    """Metrics of a model's own."""

    COUNTER: ClassVar = 0
    GAUGE: ClassVar = 1
    HISTOGRAM: ClassVar = 2

    def __init__(self, *_: Any, **__: Any) -> None:
        _not_served("metrics of a model's own")


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """None where there is none."""
    return next((each for each in inference_request.inputs() if each.name() == name), None)


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """None where there is none."""
    return next((each for each in inference_response.output_tensors() if each.name() == name), None)


def get_input_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Of the parsed `model_config`; None where there is none."""
    return next((each for each in model_config.get("input", ()) if each["name"] == name), None)


def get_output_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Of the parsed `model_config`; None where there is none."""
    return next((each for each in model_config.get("output", ()) if each["name"] == name), None)


def using_decoupled_model_transaction_policy(model_config: dict[str, Any]) -> bool:
    """Never true of a model that is loaded here."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def triton_to_numpy_type(data_type: int) -> Any:
    """Of a type's number."""
    return triton_string_to_numpy(pb.DataType.Name(data_type))


def numpy_to_triton_type(data_type: Any) -> int:
    """The type's number."""
    dtype = np.dtype(data_type)
    return pb.DataType.Value("TYPE_STRING" if dtype.kind in "OSU" else f"TYPE_{name_of(dtype)}")


def triton_string_to_numpy(triton_type_string: str) -> Any:
    """Of a type's name in the model configuration: TYPE_FP32. BF16 has no type of numpy's own."""
    name = triton_type_string.removeprefix("TYPE_")
    if name == "STRING":
        return np.object_
    found = numpy_of(name)
    return None if found is None else found.type


def serialize_byte_tensor(input_tensor: Array) -> Array | None:
    """Strings as Triton writes them: each with its length in front; what is neither text nor bytes as `str` has it."""
    if not input_tensor.size:
        return None
    texts = np.empty(input_tensor.size, np.object_)
    texts[:] = [each if isinstance(each, str | bytes) else str(each) for each in input_tensor.reshape(-1).tolist()]
    return np.frombuffer(encode_bytes(texts), np.uint8)


def deserialize_bytes_tensor(encoded_tensor: Any) -> Array:
    """The reverse: a flat array of bytes."""
    blob = bytes(encoded_tensor)
    position = count = 0
    while position < len(blob):
        position += 4 + int.from_bytes(blob[position : position + 4], "little")
        count += 1
    return decode_bytes(blob, count)


def _not_served(what: str) -> NoReturn:
    raise TritonModelException(f"not served here: {what}")
