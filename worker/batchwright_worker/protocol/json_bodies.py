"""JSON bodies of the Open Inference Protocol, from bytes to an InferRequest and from an InferResult to bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.oip.datatypes import RAW_ONLY, encode_bytes, name_of
from batchwright_worker.oip.nonfinite import has_tokens, loads, with_tokens
from batchwright_worker.protocol.binary import BinarySection, split
from batchwright_worker.protocol.classification import classes_wanted
from batchwright_worker.protocol.json_tensors import InputTensor, input_array, place_of_input
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.parameters import check_once, deadline_of, priority_of, refuse_unsupported
from batchwright_worker.protocol.shared_memory import Place, PlacedOutput, Regions, SharedTensors, place_of
from batchwright_worker.protocol.tensors import add_input, check_counts, rows_of


class RequestedOutput(msgspec.Struct):
    """One wanted output."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequestBody(msgspec.Struct):
    """POST /v2/models/NAME/infer."""

    inputs: list[InputTensor]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[RequestedOutput] = []


class OutputTensor(msgspec.Struct, omit_defaults=True):
    """One output of a response: with `data`, or with parameters.binary_data_size; neither for one in shared memory."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = {}
    data: list[Any] | msgspec.Raw | None = None


class InferResponseBody(msgspec.Struct, omit_defaults=True):
    """The response to an infer request."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: str = ""


_DECODER: Final = msgspec.json.Decoder(InferRequestBody)
_ENCODER: Final = msgspec.json.Encoder()


class ParsedRequest(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A request, and how its response is to be written: `binary` by output name, `binary_default` for the others.
    `shared`: where some of its tensors lie in shared memory; `classes`: how many of an output are wanted."""

    request: InferRequest
    binary: Mapping[str, bool]
    binary_default: bool
    shared: SharedTensors | None = None
    classes: Mapping[str, int] | None = None

    def is_binary(self, output: str) -> bool:
        """Is this output to travel as raw bytes?"""
        return self.binary.get(output, self.binary_default)


def parse(
    model: str,
    body: bytes | memoryview,
    header_length: bytes | None,
    arrival: float,
    limits: Limits,
    regions: Regions | None = None,
) -> ParsedRequest:
    """`regions` where shared memory is served. Raises BadInput."""
    header, rest = split(body, header_length, limits)
    decoded = _decoded(header)
    default = _flag(decoded.parameters, "binary_data_output", "parameters")
    shared = None if regions is None else _shared(decoded, regions)
    placed = shared.outputs if shared is not None else {}
    inputs = _inputs(decoded, BinarySection(rest), limits, regions)
    binary = _binary(decoded.outputs, default, placed)
    return ParsedRequest(
        request=InferRequest(
            model=model,
            inputs=inputs,
            rows=rows_of(inputs),
            arrival=arrival,
            deadline=deadline_of(decoded.parameters.get("timeout"), arrival),
            priority=priority_of(decoded.parameters),
            request_id=decoded.id,
            outputs=tuple(binary),
        ),
        binary=binary,
        binary_default=default,
        shared=shared,
        classes=classes_wanted((output.name, output.parameters) for output in decoded.outputs),
    )


def response(
    parsed: ParsedRequest, version: str, result: InferResult, regions: Regions | None = None
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where binary data follow it (else None). Raises BadInput for an FP16
    or BF16 output that is wanted as JSON, and for one that does not fit its place in shared memory."""
    parts: list[bytes] = []
    placed = parsed.shared.outputs if parsed.shared is not None else {}
    beside = [
        PlacedOutput(name, placed[name], _raw(array, name_of(array.dtype)))
        for name, array in result.outputs.items()
        if name in placed
    ]
    if beside and regions is not None:
        regions.write_all(beside)
    outputs = [
        _output(name, array, parsed.is_binary(name), parts)
        if name not in placed
        # No parameters, as with Triton: its C++ client looks for binary_data_size in them.
        else OutputTensor(name=name, datatype=name_of(array.dtype), shape=list(array.shape))
        for name, array in result.outputs.items()
    ]
    header = _ENCODER.encode(
        InferResponseBody(
            model_name=parsed.request.model, model_version=version, outputs=outputs, id=parsed.request.request_id
        )
    )
    if not parts:
        return header, None
    return b"".join((header, *parts)), len(header)


def _decoded(header: memoryview) -> InferRequestBody:
    try:
        return _DECODER.decode(header)
    except msgspec.ValidationError as error:
        raise BadInput(
            f"the request is not as the protocol wants it: {error}; correct the field that it names"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if has_tokens(header):
            return _decoded_with_tokens(header)
        raise _no_json(error) from error


def _decoded_with_tokens(header: memoryview) -> InferRequestBody:
    """A body that holds NaN or infinities, in tensors or where they make it wrong."""
    try:
        return msgspec.convert(_with_raw_data(loads(header)), InferRequestBody)
    except msgspec.ValidationError as error:
        raise BadInput(
            f"the request is not as the protocol wants it: {error}; correct the field that it names"
        ) from error
    except (ValueError, RecursionError) as error:
        raise _no_json(error) from error


def _with_raw_data(body: Any) -> Any:
    """The data of its inputs as text again: datatype and shape are looked at before it is read."""
    inputs = body.get("inputs") if isinstance(body, dict) else None
    for tensor in inputs if isinstance(inputs, list) else []:
        if isinstance(tensor, dict) and "data" in tensor:
            tensor["data"] = with_tokens(tensor["data"])
    return body


def _no_json(error: Exception) -> BadInput:
    return BadInput(
        f"the request is no valid JSON: {error}; if binary data follow it, send Inference-Header-Content-Length"
    )


def _shared(body: InferRequestBody, regions: Regions) -> SharedTensors | None:
    """What lies in shared memory, checked; None where nothing does. Raises BadInput."""
    inputs = [place for tensor in body.inputs if (place := place_of_input(tensor)) is not None]
    outputs = {
        output.name: place
        for output in body.outputs
        if (place := place_of(output.parameters, f"output {output.name!r}")) is not None
    }
    if not inputs and not outputs:
        return None
    regions.check(inputs, list(outputs.values()))
    return SharedTensors(input_bytes=sum(place.size for place in inputs), outputs=outputs)


def _inputs(
    body: InferRequestBody, section: BinarySection, limits: Limits, regions: Regions | None
) -> dict[str, Array]:
    check_counts(len(body.inputs), len(body.outputs), limits)
    inputs: dict[str, Array] = {}
    for tensor in body.inputs:
        add_input(inputs, tensor.name, input_array(tensor, section, limits, regions))
    section.finish()
    return inputs


def _binary(outputs: list[RequestedOutput], default: bool, placed: Mapping[str, Place]) -> dict[str, bool]:
    """Whether each requested output is to travel as raw bytes; those that go to a place of their own do."""
    binary: dict[str, bool] = {}
    for output in outputs:
        where = f"output {output.name!r}"
        check_once(output.name, binary)
        in_region = output.name in placed
        refuse_unsupported(output.parameters, where, regions=in_region)
        binary[output.name] = in_region or _flag(output.parameters, "binary_data", where, default)
    return binary


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadInput(
            f"{where}: {name!r} is wrong: wanted true or false, given {value!r}",
            wanted="true or false",
            given=repr(value),
        )
    return value


def _output(name: str, array: Array, binary: bool, parts: list[bytes]) -> OutputTensor:
    datatype = name_of(array.dtype)
    tensor = OutputTensor(name=name, datatype=datatype, shape=list(array.shape))
    if binary:
        part = _raw(array, datatype)
        parts.append(part)
        tensor.parameters = {"binary_data_size": len(part)}
    elif datatype in RAW_ONLY:
        raise BadInput(
            f"output {name!r} is {datatype}, which JSON cannot carry: wanted parameters.binary_data true, given false; "
            "set binary_data for this output, or binary_data_output for all"
        )
    else:
        tensor.data = _listed(name, array, datatype)
    return tensor


def _raw(array: Array, datatype: str) -> bytes:
    return encode_bytes(array) if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()


def _listed(name: str, array: Array, datatype: str) -> list[Any] | msgspec.Raw:
    flat: list[Any] = array.reshape(-1).tolist()
    if datatype != "BYTES":
        return flat if array.dtype.kind != "f" or np.isfinite(array).all() else with_tokens(flat)
    try:
        return [element if isinstance(element, str) else element.decode() for element in flat]
    except UnicodeDecodeError as error:
        raise BadInput(
            f"output {name!r} holds bytes that are no UTF-8 text: wanted parameters.binary_data true, given false; "
            "set binary_data for this output"
        ) from error
