"""Templates of binary requests: what the JSON part of the first says holds for every one with the same bytes there.

A client sends the same JSON part with each request of one shape; only the tensors behind it differ. So it is decoded
and checked once, and later requests of this `BodyTemplate` are views at known places of their bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from batchwright_worker.inference.requests import Array, InferRequest, RequestTemplate
from batchwright_worker.protocol.json_bodies import ParsedRequest

TEMPLATES_KEPT: Final = 16
JSON_KEPT_BYTES: Final = 4096
"""Bounds of what is kept for one head: clients decide what their JSON parts are."""


class InputView(NamedTuple):
    """Where an input lies in the body."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class BodyTemplate(RequestTemplate):
    """A template, made from the first request of its kind. `responses`: JSON parts of responses by the outputs' types
    and shapes."""

    __slots__ = (
        "binary",
        "binary_default",
        "inputs",
        "outputs",
        "priority",
        "request_id",
        "responses",
        "timeout_s",
    )

    def __init__(self, first: ParsedRequest, inputs: tuple[InputView, ...]) -> None:
        super().__init__()
        request = first.request
        self.inputs = inputs
        self.rows = request.rows
        self.timeout_s = None if request.deadline is None else request.deadline - request.arrival
        self.priority = request.priority
        self.request_id = request.request_id
        self.outputs = request.outputs
        self.binary: Mapping[str, bool] = first.binary
        self.binary_default = first.binary_default
        self.responses: dict[tuple[Any, ...], bytes] = {}

    def parsed(self, model: str, body: memoryview, arrival: float) -> ParsedRequest:
        """A later request: its tensors are views of `body`."""
        inputs: dict[str, Array] = {}
        for name, dtype, shape, offset in self.inputs:
            inputs[name] = np.ndarray(shape, dtype, body, offset)
        request = InferRequest(
            model=model,
            inputs=inputs,
            rows=self.rows,
            arrival=arrival,
            deadline=None if self.timeout_s is None else arrival + self.timeout_s,
            priority=self.priority,
            request_id=self.request_id,
            outputs=self.outputs,
            template=self,
        )
        return ParsedRequest(request=request, binary=self.binary, binary_default=self.binary_default)


class BodyTemplates:
    """The templates of the bodies that follow one head: all have its length, and JSON parts of one length."""

    __slots__ = ("_templates",)

    def __init__(self) -> None:
        self._templates: dict[bytes, BodyTemplate] = {}

    def get(self, json: bytes) -> BodyTemplate | None:
        """The template of the requests whose JSON part has these bytes."""
        return self._templates.get(json)

    def learn(self, json: bytes, first: ParsedRequest, json_bytes: int, body_bytes: int) -> None:
        """Keep a request's template, if all its inputs are raw bytes of fixed size that fill the body."""
        inputs, offset = [], json_bytes
        for name, array in first.request.inputs.items():
            if array.dtype.hasobject or array.dtype.kind == "b" or not array.size:
                return  # the bytes of BOOL are looked at, too
            inputs.append(InputView(name, array.dtype, array.shape, offset))
            offset += array.nbytes
        if offset != body_bytes:
            return
        if len(self._templates) >= TEMPLATES_KEPT:
            self._templates.clear()
        self._templates[json] = BodyTemplate(first, tuple(inputs))
