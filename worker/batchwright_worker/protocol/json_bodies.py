"""JSON bodies of the Open Inference Protocol, from bytes to an InferRequest and from an InferResult to bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferRequest, InferResult
from batchwright_worker.oip.datatypes import encode_bytes, name_of
from batchwright_worker.protocol.binary import Tail, split
from batchwright_worker.protocol.tensors import RAW_ONLY, Described, Limits, describe, from_bytes, from_values, rows_of

PRIORITY_MAX: Final = 1 << 32
_UNSUPPORTED: Final = {
    "shared_memory_region": "shared memory of the client's machine cannot be read here; send the data in the body",
    "classification": "the classification extension is not served; take the top classes of the scores yourself",
}


class InputBody(msgspec.Struct):
    """One input of a request; `data` (empty: none) is left undecoded until datatype and shape have been checked."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class OutputBody(msgspec.Struct):
    """One wanted output."""

    name: str
    parameters: dict[str, Any] = {}


class InferBody(msgspec.Struct):
    """POST /v2/models/NAME/infer."""

    inputs: list[InputBody]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[OutputBody] = []


class OutputAnswer(msgspec.Struct, omit_defaults=True):
    """One output of an answer: with `data`, or with parameters.binary_data_size."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] = {}
    data: list[Any] | None = None


class InferAnswer(msgspec.Struct, omit_defaults=True):
    """Answer to an inference."""

    model_name: str
    model_version: str
    outputs: list[OutputAnswer]
    id: str = ""


_DECODER: Final = msgspec.json.Decoder(InferBody)
_ENCODER: Final = msgspec.json.Encoder()


class Parsed(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A request, and how its answer is to be written: `binary` by output name, `binary_default` for the others."""

    request: InferRequest
    binary: Mapping[str, bool]
    binary_default: bool

    def is_binary(self, output: str) -> bool:
        """Is this output to travel as raw bytes?"""
        return self.binary.get(output, self.binary_default)


def parse(model: str, body: bytes | memoryview, header_length: bytes | None, arrival: float, limits: Limits) -> Parsed:
    """Raises BadInput."""
    header, rest = split(body, header_length, limits)
    asked = _decoded(header)
    inputs = _inputs(asked, Tail(rest), limits)
    default = _flag(asked.parameters, "binary_data_output", "parameters")
    binary = {
        output.name: _flag(output.parameters, "binary_data", f"output {output.name!r}", default)
        for output in asked.outputs
        if not _refuse_unsupported(output.parameters, f"output {output.name!r}")
    }
    return Parsed(
        request=InferRequest(
            model=model,
            inputs=inputs,
            rows=rows_of(inputs),
            arrival=arrival,
            deadline=deadline_of(asked.parameters.get("timeout"), arrival),
            priority=priority_of(asked.parameters),
            request_id=asked.id,
            outputs=tuple(binary),
        ),
        binary=binary,
        binary_default=default,
    )


def answer(parsed: Parsed, version: str, result: InferResult) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where binary data follow it (else None). Raises BadInput for an FP16
    or BF16 output that is wanted as JSON."""
    parts: list[bytes] = []
    outputs = [_output(name, array, parsed.is_binary(name), parts) for name, array in result.outputs.items()]
    header = _ENCODER.encode(
        InferAnswer(
            model_name=parsed.request.model, model_version=version, outputs=outputs, id=parsed.request.request_id
        )
    )
    if not parts:
        return header, None
    return b"".join((header, *parts)), len(header)


def deadline_of(timeout: object, arrival: float) -> float | None:
    """From the protocol's parameter `timeout` in microseconds (absent or 0: none). Raises BadInput."""
    if timeout is None or timeout == 0:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise BadInput(
            f"parameter 'timeout' is wrong: wanted a whole number of microseconds, given {timeout!r}; "
            "leave it out for none",
            wanted="microseconds",
            given=repr(timeout),
        )
    return arrival + timeout / 1e6


def priority_of(parameters: Mapping[str, Any]) -> int:
    """The protocol's parameter `priority`, 0 where absent; sequences are refused here too. Raises BadInput."""
    if parameters.get("sequence_id"):
        raise BadInput(
            "parameter 'sequence_id' is set: sequences are not served here; leave it out, rows are independent"
        )
    priority = parameters.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority < PRIORITY_MAX:
        raise BadInput(
            f"parameter 'priority' is wrong: wanted a whole number from 0 to {PRIORITY_MAX - 1}, given {priority!r}; "
            "1 is served first, 0 is the default",
            wanted=f"0 to {PRIORITY_MAX - 1}",
            given=repr(priority),
        )
    return priority


def check_inputs_count(count: int, limits: Limits) -> None:
    """Raises BadInput unless there is at least one input and not too many."""
    if not 1 <= count <= limits.inputs:
        raise BadInput(
            f"'inputs' has {count} entries: wanted 1 to {limits.inputs}; GET /v2/models/NAME tells which there are",
            wanted=f"1 to {limits.inputs}",
            given=str(count),
        )


def add_input(inputs: dict[str, Array], name: str, array: Array) -> None:
    """Raises BadInput for a name that was there already."""
    if name in inputs:
        raise BadInput(f"input {name!r} is there twice: wanted once; leave one of them out", input_name=name)
    inputs[name] = array


def _decoded(header: memoryview) -> InferBody:
    try:
        return _DECODER.decode(header)
    except msgspec.ValidationError as error:
        raise BadInput(
            f"the request is not as the protocol wants it: {error}; correct the field that it names"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(
            f"the request is no valid JSON: {error}; if binary data follow it, send Inference-Header-Content-Length"
        ) from error


def _inputs(asked: InferBody, tail: Tail, limits: Limits) -> dict[str, Array]:
    check_inputs_count(len(asked.inputs), limits)
    inputs: dict[str, Array] = {}
    for body in asked.inputs:
        described = describe(body.name, body.datatype, body.shape, limits)
        _refuse_unsupported(body.parameters, f"input {body.name!r}")
        add_input(inputs, body.name, _array(described, body, tail))
    tail.finish()
    return inputs


def _array(described: Described, body: InputBody, tail: Tail) -> Array:
    size = body.parameters.get("binary_data_size")
    raw = memoryview(body.data)
    if size is not None and raw:
        raise described.bad("has both data and binary_data_size", "one of them", "both", "leave one out")
    if size is not None:
        return from_bytes(described, tail.take(described.name, size))
    if not raw:
        raise described.bad("has no data", "data or binary_data_size", "neither", "add one of them")
    if described.elements > len(raw):
        raise described.bad(
            "has data that does not fill its shape",
            f"{described.elements} elements for shape {list(described.shape)}",
            f"{len(raw)} bytes of JSON",
            "make data and shape agree",
        )
    return from_values(described, _values(described, raw))


def _values(described: Described, raw: memoryview) -> object:
    try:
        values = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise described.bad("has unreadable data", "a list", str(error), "send a flat list") from error
    if not isinstance(values, list):
        raise described.bad("has data that is no list", "a list", type(values).__name__, "send a flat list")
    return values


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadInput(
            f"{where}: {name!r} is wrong: wanted true or false, given {value!r}",
            wanted="true or false",
            given=repr(value),
        )
    return value


def _refuse_unsupported(parameters: Mapping[str, Any], where: str) -> bool:
    for name, remedy in _UNSUPPORTED.items():
        if parameters.get(name):
            raise BadInput(f"{where}: parameter {name!r} is not supported: {remedy}")
    return False


def _output(name: str, array: Array, binary: bool, parts: list[bytes]) -> OutputAnswer:
    datatype = name_of(array.dtype)
    described = OutputAnswer(name=name, datatype=datatype, shape=list(array.shape))
    if binary:
        part = encode_bytes(array) if datatype == "BYTES" else np.ascontiguousarray(array).tobytes()
        parts.append(part)
        described.parameters = {"binary_data_size": len(part)}
    elif datatype in RAW_ONLY:
        raise BadInput(
            f"output {name!r} is {datatype}, which JSON cannot carry: wanted parameters.binary_data true, given false; "
            "set binary_data for this output, or binary_data_output for all"
        )
    else:
        described.data = _listed(name, array, datatype)
    return described


def _listed(name: str, array: Array, datatype: str) -> list[Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    if datatype != "BYTES":
        return flat
    try:
        return [element if isinstance(element, str) else element.decode() for element in flat]
    except UnicodeDecodeError as error:
        raise BadInput(
            f"output {name!r} holds bytes that are no UTF-8 text: wanted parameters.binary_data true, given false; "
            "set binary_data for this output"
        ) from error
