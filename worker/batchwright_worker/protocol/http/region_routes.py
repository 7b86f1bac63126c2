"""Paths of the shared memory extensions: status, register, unregister."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from batchwright_worker.protocol.http.messages import HttpError, HttpRequest, HttpResponse, json_response
from batchwright_worker.protocol.http.plain_bodies import decoded, plain_body
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.shared_memory import CUDA, OFF, Regions

_EXAMPLE = '{"key": "/input_data", "offset": 0, "byte_size": 1024}'
Answer = Callable[[HttpRequest], HttpResponse]


class _Registration(msgspec.Struct):
    """Body of a registration."""

    key: str
    byte_size: int
    offset: int = 0


class RegionRoutes:
    """Those of one application; `regions` is None where shared memory is not served."""

    def __init__(self, regions: Regions | None, limits: Limits) -> None:
        self._regions = regions
        self._limits = limits

    def found(self, kind: str, rest: list[str]) -> tuple[str, Answer] | None:
        """Method and answer of the path below /v2/KIND; None where there is nothing. Raises HttpError where shared
        memory is off."""
        if self._regions is None:
            raise HttpError(400, OFF)
        system = kind == "systemsharedmemory"
        match rest:
            case ["status"]:
                return "GET", partial(self._status, "", system)
            case ["region", name, "status"]:
                return "GET", partial(self._status, name, system)
            case ["region", name, "register"]:
                return "POST", partial(self._register, self._regions, name, system)
            case ["unregister"]:
                return "POST", partial(self._unregister, "", system)
            case ["region", name, "unregister"]:
                return "POST", partial(self._unregister, name, system)
        return None

    def _status(self, name: str, system: bool, _request: HttpRequest) -> HttpResponse:
        if self._regions is None or not system:
            return json_response([])
        return json_response(self._regions.status(name))

    def _register(self, regions: Regions, name: str, system: bool, request: HttpRequest) -> HttpResponse:
        if not system:
            raise HttpError(400, CUDA)
        wanted = decoded(plain_body(request, self._limits), _Registration, _EXAMPLE)
        regions.register(name, wanted.key, wanted.offset, wanted.byte_size)
        return HttpResponse(200, b"{}")

    def _unregister(self, name: str, system: bool, _request: HttpRequest) -> HttpResponse:
        if self._regions is not None and system:
            self._regions.unregister(name)
        return HttpResponse(200, b"{}")
