"""`grpc.health.v1` and reflection beside the protocol's own service, by grpc's packages.

The service "" and the protocol's are this server's readiness, a model's name is the model's.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc

from batchwright_worker.engine.engine import Engine
from batchwright_worker.oip import inference_pb2 as pb

SERVICE: Final = "inference.GRPCInferenceService"
_WAIT_S: Final = 60.0
_LOG = logging.getLogger(__name__)


def add_health_and_reflection(server: Any, engine: Engine, ready: Callable[[], bool]) -> None:
    """Serve both from this server, which has not started yet."""
    try:
        from google.protobuf.descriptor_pool import DescriptorPool
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection, reflection_pb2
    except ImportError as error:
        _LOG.warning("no gRPC health checks and no reflection: %s; install the packages of batchwright[worker]", error)
        return
    status = health_pb2.HealthCheckResponse

    class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
        """Answers from the engine's state, now and whenever it changes."""

        async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
            is_serving = self._is_serving(request.service)
            if is_serving is None:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or model {request.service!r} here")
            return status(status=status.SERVING if is_serving else status.NOT_SERVING)

        async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
            told = None
            while True:
                revision = engine.snapshot().revision
                is_serving = self._is_serving(request.service)
                now = (
                    status.SERVICE_UNKNOWN
                    if is_serving is None
                    else status.SERVING
                    if is_serving
                    else status.NOT_SERVING
                )
                if now != told:
                    told = now
                    yield status(status=now)
                await engine.wait_for_revision(revision, _WAIT_S)

        def _is_serving(self, service: str) -> bool | None:
            if service in ("", SERVICE):
                return ready()
            return ready() and engine.model_ready(service) if service in engine.publisher.views else None

    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    # Reflection tells from one pool, and the protocol's messages have one of their own (`oip/generate.py`).
    pool = DescriptorPool()
    for module in (pb, health_pb2, reflection_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool)
