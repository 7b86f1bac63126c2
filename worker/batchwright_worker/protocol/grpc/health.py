"""`grpc.health.v1` and reflection beside the protocol's own service, by grpc's packages.

The service "" and the protocol's are this server's readiness, a model's name is the model's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from batchwright_worker.engine.engine import Engine
from batchwright_worker.oip import inference_pb2 as pb

SERVICE: Final = "inference.GRPCInferenceService"
_WAIT_S: Final = 60.0
_STATUS: Final = health_pb2.HealthCheckResponse


def add_health_and_reflection(server: Any, engine: Engine, ready: Callable[[], bool]) -> None:
    """Serve both from this server, which has not started yet."""
    health_pb2_grpc.add_HealthServicer_to_server(_Health(engine, ready), server)
    # Reflection tells from one pool, and the protocol's messages have one of their own (`oip/generate.py`).
    pool = DescriptorPool()
    for module in (pb, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool)


class _Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers from the engine's state, now and whenever it changes."""

    def __init__(self, engine: Engine, ready: Callable[[], bool]) -> None:
        self._engine = engine
        self._ready = ready

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        is_serving = self._is_serving(request.service)
        if is_serving is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or model {request.service!r} here")
        return _STATUS(status=_STATUS.SERVING if is_serving else _STATUS.NOT_SERVING)

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        words = {None: _STATUS.SERVICE_UNKNOWN, True: _STATUS.SERVING, False: _STATUS.NOT_SERVING}
        told = None
        while True:
            revision = self._engine.snapshot().revision
            now = words[self._is_serving(request.service)]
            if now != told:
                told = now
                yield _STATUS(status=now)
            await self._engine.wait_for_revision(revision, _WAIT_S)

    def _is_serving(self, service: str) -> bool | None:
        """None: there is no such service or model."""
        if service in ("", SERVICE):
            return self._ready()
        if service not in self._engine.publisher.views:
            return None
        return self._ready() and self._engine.model_ready(service)
