"""Errors of the calls with texts, in the form that OpenAI's clients read; Cohere's read `message` beside it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from batchwright_worker.inference.errors import (
    BadInput,
    DeadlineExceeded,
    InferenceError,
    ModelUnavailable,
    Refused,
    Stopping,
    UnknownModel,
)
from batchwright_worker.protocol.http.messages import JSON, Header, HttpError, HttpResponse
from batchwright_worker.texts import presentable

_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"
TOO_LONG: Final = "context_length_exceeded"


class BadCall(Exception):  # noqa: N818 - the answer says what is wrong
    """The caller's mistake: `param` is the field that it is in, `code` what programs go by."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(presentable(message))
        self.param = param
        self.code = code


class TaskUnusable(Exception):  # noqa: N818
    """The model is not what its task says: nothing that a caller can change."""


def error_response(error: BadCall | TaskUnusable | InferenceError | HttpError) -> HttpResponse:
    """`{"error": {message, type, param, code}, "message": ..}`; 429 for what is refused by load, with Retry-After."""
    match error:
        case BadCall():
            return _response(400, str(error), _INVALID, error.param, error.code)
        case TaskUnusable():
            return _response(500, str(error), _SERVER, None, "model_not_usable")
        case HttpError():
            return _response(error.status, str(error), _type_of(error.status), None, None, error.headers)
        case InferenceError():
            status, code = _known(error)
            wait = error.retry_after_header
            headers = ((b"retry-after", wait.encode()),) if wait is not None else ()
            param = "model" if isinstance(error, UnknownModel) else None
            kind = "rate_limit_error" if status == 429 else _type_of(status)
            return _response(status, str(error), kind, param, code, headers)


def of_other_errors(response: HttpResponse) -> HttpResponse:
    """An error that was made outside of these calls (a body that is too large, say) in their form."""
    try:
        message = msgspec.json.decode(response.body).get("error")
    except (msgspec.MsgspecError, AttributeError):
        return response
    if not isinstance(message, str):
        return response
    retry = any(name == b"retry-after" for name, _ in response.headers)
    status = 429 if response.status == 503 and retry else response.status
    kind, code = ("rate_limit_error", "rate_limit_exceeded") if status == 429 else (_type_of(status), None)
    return HttpResponse(status, _body(message, kind, None, code), response.headers)


def _known(error: InferenceError) -> tuple[int, str | None]:
    match error:
        case Refused():
            return 429, "rate_limit_exceeded"
        case UnknownModel():
            return 404, "model_not_found"
        case ModelUnavailable() | Stopping():
            return 503, "service_unavailable"
        case DeadlineExceeded():
            return 504, "deadline_exceeded"
        case BadInput():
            return 400, None
        case _:
            return error.http_status, None


def _type_of(status: int) -> str:
    return _INVALID if status < 500 else _SERVER


def _response(
    status: int, message: str, kind: str, param: str | None, code: str | None, headers: tuple[Header, ...] = ()
) -> HttpResponse:
    return HttpResponse(status, _body(message, kind, param, code), [JSON, *headers])


def _body(message: str, kind: str, param: str | None, code: str | None) -> bytes:
    error: dict[str, Any] = {"message": message, "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error, "message": message})
