"""Binary requests that look alike: what the JSON part of the first told holds for all with the same bytes there.

A client sends the same JSON part with each request of one shape; only the tensors behind it differ. So it is decoded
and checked once, and later requests of this `BodyTemplate` are views at known places of their bodies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from batchwright_worker.inference.requests import Array, InferRequest, RequestTemplate
from batchwright_worker.protocol.json_bodies import Parsed

FORMS_KEPT: Final = 16
JSON_MOST_BYTES: Final = 4096


class Field(msgspec.Struct, frozen=True):
    """Where an input lies in the body."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


class BodyTemplate(RequestTemplate):
    """Made from the first request of its kind. `answers`: JSON parts of answers by the outputs' types and shapes."""

    __slots__ = (
        "answers",
        "binary",
        "binary_default",
        "fields",
        "outputs",
        "priority",
        "request_id",
        "rows",
        "timeout_s",
    )

    def __init__(self, first: Parsed, fields: tuple[Field, ...]) -> None:
        super().__init__()
        asked = first.request
        self.fields = fields
        self.rows = asked.rows
        self.timeout_s = None if asked.deadline is None else asked.deadline - asked.arrival
        self.priority = asked.priority
        self.request_id = asked.request_id
        self.outputs = asked.outputs
        self.binary: Mapping[str, bool] = first.binary
        self.binary_default = first.binary_default
        self.answers: dict[tuple[Any, ...], bytes] = {}

    def parsed(self, model: str, body: memoryview, arrival: float) -> Parsed:
        """A later request: its tensors are views of `body`."""
        inputs: dict[str, Array] = {
            field.name: np.ndarray(field.shape, field.dtype, body, field.offset) for field in self.fields
        }
        request = InferRequest(
            model=model,
            inputs=inputs,
            rows=self.rows,
            arrival=arrival,
            deadline=None if self.timeout_s is None else arrival + self.timeout_s,
            priority=self.priority,
            request_id=self.request_id,
            outputs=self.outputs,
            form=self,
        )
        return Parsed(request=request, binary=self.binary, binary_default=self.binary_default)


class BodyTemplates:
    """The forms of the bodies that follow one head: all have its length, and JSON parts of one length."""

    __slots__ = ("_forms",)

    def __init__(self) -> None:
        self._forms: dict[bytes, BodyTemplate] = {}

    def get(self, json: bytes) -> BodyTemplate | None:
        """Of the requests whose JSON part has these bytes."""
        return self._forms.get(json)

    def learn(self, json: bytes, first: Parsed, json_bytes: int, body_bytes: int) -> None:
        """Remember a request's form, if all its inputs are raw bytes of fixed size that fill the body."""
        fields, offset = [], json_bytes
        for name, array in first.request.inputs.items():
            if array.dtype.hasobject or not array.size:
                return
            fields.append(Field(name, array.dtype, array.shape, offset))
            offset += array.nbytes
        if offset != body_bytes:
            return
        if len(self._forms) >= FORMS_KEPT:
            self._forms.clear()
        self._forms[json] = BodyTemplate(first, tuple(fields))
