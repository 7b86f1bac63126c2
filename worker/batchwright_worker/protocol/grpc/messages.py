"""gRPC messages of the Open Inference Protocol, to an InferRequest and from an InferResult."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.datatypes import CONTENTS_FIELDS, RAW_ONLY, encode_bytes, name_of
from batchwright_worker.oip.json_values import BadValuesError, check_range
from batchwright_worker.protocol.classification import classes_wanted
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.parameters import REGION, check_once, deadline_of, priority_of, refuse_unsupported
from batchwright_worker.protocol.shared_memory import Place, PlacedOutput, Regions, place_of
from batchwright_worker.protocol.tensors import (
    DeclaredInput,
    add_input,
    check_counts,
    declared_input,
    from_bytes,
    rows_of,
)

MOST_PARAMETERS: Final = 256
"""In one place: a message has room for millions."""


def parse(
    message: pb.ModelInferRequest,
    arrival: float,
    time_left_s: float | None,
    limits: Limits,
    regions: Regions | None = None,
) -> InferRequest:
    """`regions` where shared memory is served. Raises BadInput. The deadline is the earlier one of the call's and the
    parameter `timeout`'s."""
    check_counts(len(message.inputs), len(message.outputs), limits)
    parameters = by_name(message.parameters)
    if regions is not None:
        places = (_place(tensor, "input") for tensor in message.inputs)
        regions.check([place for place in places if place is not None], list(places_of(message).values()))
    inputs = _inputs(message, limits, regions)
    named: dict[str, None] = {}
    for output in message.outputs:
        check_once(output.name, named)
        named[output.name] = None
        if output.parameters:
            given = by_name(output.parameters)
            refuse_unsupported(given, f"output {output.name!r}", regions=regions is not None)
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
        outputs=tuple(named),
    )


def due_within(request: InferRequest, time_left_s: float | None) -> InferRequest:
    """The request with the earlier one of its deadline and the call's."""
    if time_left_s is None:
        return request
    return msgspec.structs.replace(request, deadline=_earlier(request.arrival + time_left_s, request.deadline))


def response(
    request: InferRequest,
    version: str,
    result: InferResult,
    places: Mapping[str, Place] | None = None,
    regions: Regions | None = None,
) -> pb.ModelInferResponse:
    """The response; tensors travel as raw contents, those with a place in shared memory are written there. Raises
    BadInput where one does not fit."""
    message = pb.ModelInferResponse(model_name=request.model, model_version=version, id=request.request_id)
    beside: list[PlacedOutput] = []
    for name, array in result.outputs.items():
        datatype = name_of(array.dtype)
        message.outputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = encode_bytes(array) if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
        if places and (place := places.get(name)) is not None:
            beside.append(PlacedOutput(name, place, raw))
            raw = b""  # clients find the others by their place in the list
        message.raw_output_contents.append(raw)
    if beside and regions is not None:
        regions.write_all(beside)
    return message


def places_of(message: pb.ModelInferRequest) -> dict[str, Place]:
    """The outputs that go to shared memory, and where. Raises BadInput."""
    places = ((output.name, _place(output, "output")) for output in message.outputs)
    return {name: place for name, place in places if place is not None}


def classes_in(message: pb.ModelInferRequest) -> dict[str, int] | None:
    """Of which outputs how many classes are wanted; None: of none. Raises BadInput."""
    return classes_wanted((each.name, by_name(each.parameters)) for each in message.outputs if each.parameters)


def names_a_region(message: pb.ModelInferRequest) -> bool:
    """Lies any of its tensors in shared memory?"""
    return any(REGION in one.parameters for one in message.inputs) or any(
        REGION in one.parameters for one in message.outputs
    )


def _place(tensor: Any, what: str) -> Place | None:
    return place_of(by_name(tensor.parameters), f"{what} {tensor.name!r}") if tensor.parameters else None


def by_name(parameters: Mapping[str, pb.InferParameter] | Mapping[str, pb.ModelRepositoryParameter]) -> dict[str, Any]:
    """The parameters by their names. Raises BadInput for too many."""
    if len(parameters) > MOST_PARAMETERS:
        raise BadInput(
            f"{len(parameters)} parameters are set in one place: wanted at most {MOST_PARAMETERS}; leave out those "
            "that the protocol does not have"
        )
    return {name: parameter_value(value) for name, value in parameters.items()}


def parameter_value(parameter: pb.InferParameter | pb.ModelRepositoryParameter) -> object:
    """The value that is set; None where none is."""
    which = parameter.WhichOneof("parameter_choice")
    return None if which is None else getattr(parameter, which)


def _inputs(message: pb.ModelInferRequest, limits: Limits, regions: Regions | None) -> dict[str, Array]:
    raw, tensors = message.raw_input_contents, message.inputs
    elsewhere = sum(REGION in tensor.parameters for tensor in tensors) if regions is not None else 0
    if raw and len(raw) != len(tensors) - elsewhere:
        raise BadInput(
            f"raw_input_contents has {len(raw)} entries: wanted {len(tensors) - elsewhere}, one for each input"
            f"{' that is not in shared memory' if elsewhere else ''}; send all tensors raw or none",
            wanted=str(len(tensors) - elsewhere),
            given=str(len(raw)),
        )
    inputs: dict[str, Array] = {}
    contents = iter(raw)
    for tensor in tensors:
        declared = declared_input(tensor.name, tensor.datatype, tensor.shape, limits)
        add_input(inputs, tensor.name, _input(declared, tensor, contents if raw else None, regions))
    return inputs


def _input(declared: DeclaredInput, tensor: Any, raw: Iterator[bytes] | None, regions: Regions | None) -> Array:
    if tensor.parameters:
        given, where = by_name(tensor.parameters), f"input {tensor.name!r}"
        refuse_unsupported(given, where, regions=regions is not None)
        if regions is not None and (place := place_of(given, where)) is not None:
            if tensor.HasField("contents"):
                raise declared.bad("is in shared memory and has contents", "one of them", "both", "leave one out")
            return from_bytes(declared, regions.read(place))
    if raw is None:
        return _typed(declared, tensor.contents)
    if tensor.HasField("contents"):
        raise declared.bad("has both contents and raw contents", "one of them", "both", "leave one out")
    return from_bytes(declared, memoryview(next(raw)))


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
        try:
            check_range(array, declared.datatype, declared.dtype)
        except BadValuesError as bad:
            raise declared.bad_values(bad) from bad
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
