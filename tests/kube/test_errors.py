"""HTTP statuses of the API server as errors."""

from __future__ import annotations

import pytest

from batchwright_operator.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    Unavailable,
    error_of,
)


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (403, "Forbidden", Forbidden),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", Unavailable),
        (503, "", Unavailable),
        (500, "InternalError", Unavailable),
    ],
)
def test_errors_are_sorted_by_what_to_do_next(code: int, reason: str, kind: type[ApiError]) -> None:
    assert type(error_of(code, reason, "m")) is kind
