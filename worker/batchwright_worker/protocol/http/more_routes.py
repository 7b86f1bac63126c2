"""What the inference port answers beside the Open Inference Protocol, where somebody gives it more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from batchwright_worker.protocol.http.messages import HttpRequest, HttpResponse


class MoreRoutes(Protocol):
    """Paths of others' protocols."""

    def found(self, parts: list[str]) -> tuple[str, Callable[[HttpRequest], Awaitable[HttpResponse]]] | None:
        """The method and the handler of a path, given as its decoded parts. The handler raises what a `TaskApp`'s
        may."""

    def in_their_form(self, path: str, response: HttpResponse) -> HttpResponse:
        """A response of this port to a request for this path, as clients of that protocol read it."""
