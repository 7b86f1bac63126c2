"""Triton's raw binary requests: `Inference-Header-Content-Length: 0`, and the body is the model's only input.

curl -H 'Inference-Header-Content-Length: 0' --data-binary @x.f32 HOST/v2/models/NAME/infer
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferRequest
from batchwright_worker.inference.runtime import TensorSpec
from batchwright_worker.oip.datatypes import numpy_of
from batchwright_worker.oip.http_tensors import HEADER_LENGTH
from batchwright_worker.protocol.json_bodies import ParsedRequest
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.tensors import declared_input, from_bytes, rows_of

RAW: bytes = b"0"
"""The header's value."""


def parse_raw(
    model: str, specs: Sequence[TensorSpec], body: memoryview, arrival: float, limits: Limits
) -> ParsedRequest:
    """One row of the model's only input; the outputs travel as raw bytes too. Raises BadInput."""
    if len(specs) != 1:
        raise BadInput(
            f"the header {HEADER_LENGTH} is 0, so the body is the only input of the model, and {model} has "
            f"{len(specs)}: send a JSON part that names them",
            wanted="a model with one input",
            given=str(len(specs)),
        )
    inputs = {specs[0].name: _only_input(specs[0], body, limits)}
    request = InferRequest(model=model, inputs=inputs, rows=rows_of(inputs), arrival=arrival)
    return ParsedRequest(request=request, binary={}, binary_default=True)


def _only_input(spec: TensorSpec, body: memoryview, limits: Limits) -> Array:
    shape = (1, *spec.shape) if spec.batched else spec.shape
    declared = declared_input(spec.name, spec.datatype, _filled(spec, shape, len(body)), limits)
    if spec.datatype != "BYTES":
        return from_bytes(declared, body)
    if declared.elements != 1:
        raise declared.bad("cannot be a raw body", "one element", str(declared.elements), "send a JSON part with it")
    element = np.empty(declared.shape, dtype=np.object_)
    element.reshape(-1)[0] = bytes(body)
    return element


def _filled(spec: TensorSpec, shape: tuple[int, ...], size: int) -> list[int]:
    """The shape, of which one dimension may follow from the size of the body. Raises BadInput."""
    unknown = [index for index, length in enumerate(shape) if length < 0]
    filled = [1 if length < 0 else length for length in shape]
    dtype = numpy_of(spec.datatype)
    if not unknown or spec.datatype == "BYTES" or dtype is None:
        return filled
    one = math.prod(filled) * dtype.itemsize
    if len(unknown) > 1 or not one or size % one:
        raise BadInput(
            f"input {spec.name!r} has shape {list(shape)}, which {size} bytes do not tell: send a JSON part with it",
            input_name=spec.name,
            wanted=f"a multiple of {one} bytes" if len(unknown) == 1 else "one dimension that varies",
            given=f"{size} bytes",
        )
    filled[unknown[0]] = size // one
    return filled
