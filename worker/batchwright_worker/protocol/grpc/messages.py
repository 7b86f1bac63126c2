"""gRPC messages of the Open Inference Protocol, to an InferRequest and from an InferResult."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.datatypes import CONTENTS_FIELDS, RAW_ONLY, encode_bytes, name_of
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.parameters import deadline_of, priority_of, refuse_unsupported
from batchwright_worker.protocol.tensors import (
    DeclaredInput,
    add_input,
    check_inputs_count,
    check_range,
    declared_input,
    from_bytes,
    rows_of,
)


def parse(message: pb.ModelInferRequest, arrival: float, time_left_s: float | None, limits: Limits) -> InferRequest:
    """Raises BadInput. The deadline is the earlier one of the call's and the parameter `timeout`'s."""
    check_inputs_count(len(message.inputs), limits)
    parameters = by_name(message.parameters)
    inputs = _inputs(message, limits)
    for output in message.outputs:
        if output.parameters:
            refuse_unsupported(by_name(output.parameters), f"output {output.name!r}")
    return InferRequest(
        model=message.model_name,
        inputs=inputs,
        rows=rows_of(inputs),
        arrival=arrival,
        deadline=_earlier(
            None if time_left_s is None else arrival + time_left_s, deadline_of(parameters.get("timeout"), arrival)
        ),
        priority=priority_of(parameters),
        request_id=message.id,
        outputs=tuple(output.name for output in message.outputs),
    )


def due_within(request: InferRequest, time_left_s: float | None) -> InferRequest:
    """The request with the earlier one of its deadline and the call's."""
    if time_left_s is None:
        return request
    return msgspec.structs.replace(request, deadline=_earlier(request.arrival + time_left_s, request.deadline))


def response(request: InferRequest, version: str, result: InferResult) -> pb.ModelInferResponse:
    """The response; tensors travel as raw contents."""
    message = pb.ModelInferResponse(model_name=request.model, model_version=version, id=request.request_id)
    for name, array in result.outputs.items():
        datatype = name_of(array.dtype)
        message.outputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = encode_bytes(array) if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
        message.raw_output_contents.append(raw)
    return message


def by_name(parameters: Mapping[str, pb.InferParameter] | Mapping[str, pb.ModelRepositoryParameter]) -> dict[str, Any]:
    """The parameters by their names."""
    return {name: parameter_value(value) for name, value in parameters.items()}


def parameter_value(parameter: pb.InferParameter | pb.ModelRepositoryParameter) -> object:
    """The value that is set; None where none is."""
    which = parameter.WhichOneof("parameter_choice")
    return None if which is None else getattr(parameter, which)


def _inputs(message: pb.ModelInferRequest, limits: Limits) -> dict[str, Array]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadInput(
            f"raw_input_contents has {len(raw)} entries: wanted {len(message.inputs)}, one for each input; "
            "send all tensors raw or none",
            wanted=str(len(message.inputs)),
            given=str(len(raw)),
        )
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(message.inputs):
        declared = declared_input(tensor.name, tensor.datatype, tensor.shape, limits)
        if tensor.parameters:
            refuse_unsupported(by_name(tensor.parameters), f"input {tensor.name!r}")
        if raw and tensor.HasField("contents"):
            raise declared.bad("has both contents and raw contents", "one of them", "both", "leave one out")
        array = from_bytes(declared, memoryview(raw[index])) if raw else _typed(declared, tensor.contents)
        add_input(inputs, tensor.name, array)
    return inputs


def _typed(declared: DeclaredInput, contents: pb.InferTensorContents) -> Array:
    if declared.datatype in RAW_ONLY:
        raise declared.bad(
            "cannot travel as typed contents", "raw_input_contents", declared.datatype, "send the tensor's bytes raw"
        )
    field = CONTENTS_FIELDS[declared.datatype]
    others = [set_field.name for set_field, _ in contents.ListFields() if set_field.name != field]
    if others:
        raise declared.bad("has contents of the wrong type", field, others[0], "fill the field of its datatype")
    values = getattr(contents, field)
    if len(values) != declared.elements:
        raise declared.bad(
            "has contents that do not fill its shape",
            f"{declared.elements} elements for shape {list(declared.shape)}",
            f"{len(values)} elements in {field}",
            "make contents and shape agree",
        )
    return _array(declared, values).reshape(declared.shape)


def _array(declared: DeclaredInput, values: Any) -> Array:
    if declared.datatype == "BYTES":
        elements = np.empty(len(values), dtype=np.object_)
        elements[:] = list(values)
        return elements
    array = np.array(values, dtype=_wide(declared))
    if declared.dtype.kind in "iu" and array.size:
        check_range(declared, array)
    return array.astype(declared.dtype, copy=False)


def _wide(declared: DeclaredInput) -> np.dtype[Any]:
    wide: Mapping[str, Callable[[], np.dtype[Any]]] = {
        "i": lambda: np.dtype(np.int64),
        "u": lambda: np.dtype(np.uint64),
    }
    return wide.get(declared.dtype.kind, lambda: declared.dtype)()


def _earlier(first: float | None, second: float | None) -> float | None:
    times = [time for time in (first, second) if time is not None]
    return min(times) if times else None
