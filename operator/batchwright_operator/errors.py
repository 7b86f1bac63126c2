"""Errors of the operator, by what the caller does next.

OperatorError
+-- SettingsError            stop and say what to change
+-- ApiError                 an error response of the API server, or none
    +-- NotFound             404: the object does not exist; read again
    |   +-- NotServed        404: the server has no such kind, or is no API server
    +-- AlreadyExists        409 on create: ours, that is success; otherwise report it, and try again slowly
    +-- Conflict             409: decide again from newer state
    +-- NameTaken            somebody else's object has the name of a child: leave it, say so, look again now and then
    +-- Contended            somebody undoes every repair of a child: say so, repair it less and less often
    +-- Gone                 410: list again
    +-- Invalid              400, 422: the body is wrong; trying again alone will not help
    +-- Forbidden            403: no permission, quota, a webhook's no, or the server has just started; try again slowly
    +-- WebhookFailed        an admission webhook does not answer: nothing of ours is wrong, and others may go on
    +-- Unauthorized         401: read the credentials again
    +-- Unavailable          no response, 429, 5xx: try again later; may have happened all the same
"""

from __future__ import annotations

import re

__all__ = [
    "AlreadyExists",
    "ApiError",
    "Conflict",
    "Contended",
    "Forbidden",
    "Gone",
    "Invalid",
    "NameTaken",
    "NotFound",
    "NotServed",
    "OperatorError",
    "SettingsError",
    "Unauthorized",
    "Unavailable",
    "WebhookFailed",
    "error_of",
]


class OperatorError(Exception):
    """Base of all errors that the operator raises itself."""


class SettingsError(OperatorError):
    """A setting is wrong; the message names it and says what to write instead."""


class ApiError(OperatorError):
    """The API server refused, or there was no response; `code` is the HTTP status, 0 without one."""

    def __init__(self, message: str, *, code: int = 0, reason: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s


class NotFound(ApiError):  # noqa: N818 - the tree reads better without the suffix
    """404."""


class NotServed(NotFound):
    """404 of a kind, whatever the object's name."""


class AlreadyExists(ApiError):  # noqa: N818
    """409, reason AlreadyExists."""


class Conflict(ApiError):  # noqa: N818
    """409: the resourceVersion or the uid is not the current one."""


class NameTaken(ApiError):  # noqa: N818
    """An object that is not controlled by the owner of ours has its name; nothing was written."""


class Contended(ApiError):  # noqa: N818
    """An object of ours was changed by somebody else after each of our last repairs; nothing was written."""


class Gone(ApiError):  # noqa: N818
    """410: the resourceVersion or the continue token is too old."""


class Invalid(ApiError):  # noqa: N818
    """400, 413, 415, 422: the server will never take this body."""


class Forbidden(ApiError):  # noqa: N818
    """403: also the response of a server that has not synced its RBAC yet."""


class WebhookFailed(ApiError):  # noqa: N818
    """500 of an API server that is well: a webhook that has a say in this object cannot be called."""


class Unauthorized(ApiError):  # noqa: N818
    """401."""


class Unavailable(ApiError):  # noqa: N818
    """429, 5xx, or no response at all: nobody knows whether it happened."""


_BY_CODE: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


_DENIED = re.compile(r'admission webhook "[^"]*" denied the request')
_POLICY = re.compile(r"ValidatingAdmissionPolicy '([^']*)' with binding '[^']*' denied request")
OWN_POLICY = "batchwright-operator"
"""The admission policy of our manifests, which keeps us from the objects of others: its no is about our request."""
_UNCALLED = "failed calling webhook"
_UNREADABLE = "failed to create typed patch object"
"""What an API server that is well says, with a 500, of a body that server-side apply cannot read: a field that it does
not know, two elements of a list with one name."""


def error_of(code: int, reason: str, message: str, retry_after_s: float | None = None) -> ApiError:
    """The error for an HTTP status and the `reason` of a Kubernetes Status."""
    kind = _BY_CODE.get(code, Unavailable)
    policy = _POLICY.search(message)
    if _DENIED.match(message) or (policy is not None and OWN_POLICY not in policy[1]):
        kind = Forbidden  # whatever status the webhook, or whoever wrote the policy, has chosen for its no
    elif code == 500 and _UNCALLED in message:
        kind = WebhookFailed
    elif message.startswith(_UNREADABLE):
        kind = Invalid
    elif reason == "AlreadyExists":
        kind = AlreadyExists
    elif reason == "Expired":
        kind = Gone
    return kind(message, code=code, reason=reason, retry_after_s=retry_after_s)
