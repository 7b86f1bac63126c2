"""Errors that callers of the engine see.

By what the caller does next; each carries its HTTP status and gRPC code name:

    InferenceError
    |- BadInput           400 INVALID_ARGUMENT    fix the request; names the input, what is wanted and what was given
    |- UnknownModel       404 NOT_FOUND           request a model that is served here
    |- Refused            503 RESOURCE_EXHAUSTED  come back after `retry_after_s`
    |  `- QueueFull       503 RESOURCE_EXHAUSTED  the same, without a latency target
    |- ModelUnavailable   503 UNAVAILABLE         the model cannot be loaded now; `retry_after_s`
    |- Stopping           503 UNAVAILABLE         send it to another replica
    |- DeadlineExceeded   504 DEADLINE_EXCEEDED   the caller's own deadline has passed or cannot be met
    `- ModelFailed        500 INTERNAL            the model raised on these rows
"""

# ruff: noqa: N818 - the names say what happened; callers read them as answers
from __future__ import annotations

import math
from typing import ClassVar

from batchwright_worker.texts import presentable


class InferenceError(Exception):
    """An answer that is not a result. `retry_after_s` is None where trying again is of no use. The message is made
    presentable: parts of it are a model's, or the caller's own."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    retry_after_s: float | None = None

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(presentable(message))
        self.retry_after_s = retry_after_s

    @property
    def retry_after_header(self) -> str | None:
        """Whole seconds for the Retry-After header (at least 1), None where there is nothing to wait for."""
        return None if self.retry_after_s is None else str(max(1, math.ceil(self.retry_after_s)))


class BadInput(InferenceError):
    """The request does not fit the model."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"

    def __init__(self, message: str, *, input_name: str = "", wanted: str = "", given: str = "") -> None:
        super().__init__(message)
        self.input_name = input_name
        self.wanted = wanted
        self.given = given


class UnknownModel(InferenceError):
    """No model of this name is served here (or it was unloaded by request)."""

    http_status = 404
    grpc_code = "NOT_FOUND"


class Refused(InferenceError):
    """It could not be answered in time, so it is refused at once."""

    http_status = 503
    grpc_code = "RESOURCE_EXHAUSTED"


class QueueFull(Refused):
    """The model's queue has reached maxQueueLength."""


class ModelUnavailable(InferenceError):
    """The model cannot be loaded at present."""

    http_status = 503
    grpc_code = "UNAVAILABLE"


class Stopping(InferenceError):
    """This replica is shutting down."""

    http_status = 503
    grpc_code = "UNAVAILABLE"


class DeadlineExceeded(InferenceError):
    """The caller's deadline has passed, or cannot be met any more."""

    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"


class ModelFailed(InferenceError):
    """The model raised on this request's rows; `row` is the first bad one where it is known."""

    def __init__(self, message: str, *, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row
