"""The runtime's response as the engine wants it: the expected message, or the error that it reports."""

from __future__ import annotations

from typing import Final, TypeVar

from batchwright_worker.inference.runtime import BatchFailed, LoadRefused, OutOfMemory, WrongOutputs
from batchwright_worker.ipc.messages import RequestFailed, RuntimeResponse

Response = TypeVar("Response")
_KINDS: Final = {"OutOfMemory": OutOfMemory, "WrongOutputs": WrongOutputs, "Refused": LoadRefused}


def expect(response: RuntimeResponse, wanted: type[Response]) -> Response:
    """The response. Raises OutOfMemory, WrongOutputs or BatchFailed for a failed request, BatchFailed for any other
    message."""
    if isinstance(response, wanted):
        return response
    if isinstance(response, RequestFailed):
        raise _KINDS.get(response.kind, BatchFailed)(response.message)
    raise BatchFailed(f"the runtime answered {type(response).__name__} where {wanted.__name__} was due")
