"""Answers to the shared memory extensions' paths: status, register, unregister."""

from __future__ import annotations

import msgspec

from batchwright_worker.protocol.http.messages import HttpError, HttpRequest, HttpResponse, json_response
from batchwright_worker.protocol.http.paths import Target
from batchwright_worker.protocol.http.plain_bodies import decoded, plain_body
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.shared_memory import CUDA, OFF, Regions

_EXAMPLE = '{"key": "/input_data", "offset": 0, "byte_size": 1024}'


class _Registration(msgspec.Struct):
    """Body of a registration."""

    key: str
    byte_size: int
    offset: int = 0


class RegionRoutes:
    """Those of one application; `regions` is None where shared memory is not served: HttpError 400."""

    def __init__(self, regions: Regions | None, limits: Limits) -> None:
        self._regions = regions
        self._limits = limits

    async def status(self, _request: HttpRequest, target: Target) -> HttpResponse:
        """Of a region, or of all: there are none of CUDA's."""
        regions = self._served()
        return json_response(regions.status(target.region) if target.kind == "system" else [])

    async def register(self, request: HttpRequest, target: Target) -> HttpResponse:
        """Raises HttpError for a region of CUDA's."""
        regions = self._served()
        if target.kind != "system":
            raise HttpError(400, CUDA)
        wanted = decoded(plain_body(request, self._limits), _Registration, _EXAMPLE)
        regions.register(target.region, wanted.key, wanted.offset, wanted.byte_size)
        return HttpResponse(200, b"{}")

    async def unregister(self, _request: HttpRequest, target: Target) -> HttpResponse:
        """Of a region, or of all; clients unregister all of both kinds before they begin."""
        regions = self._served()
        if target.kind == "system":
            regions.unregister(target.region)
        return HttpResponse(200, b"{}")

    def _served(self) -> Regions:
        if self._regions is None:
            raise HttpError(400, OFF)
        return self._regions
