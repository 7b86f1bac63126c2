"""The gRPC port: Open Inference Protocol v2 on grpc.aio, for clients that speak nothing else (HTTP is far cheaper)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.json_format import ParseDict

from batchwright_worker.api.names import HEADER_BATCH_SIZE, HEADER_EXPECTED_WAIT
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.inference.requests import InferResult
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from batchwright_worker.protocol.catalogue import VERSION, Catalogue
from batchwright_worker.protocol.grpc import messages
from batchwright_worker.protocol.limits import Limits

_LOG = logging.getLogger(__name__)
_FOREVER_S: Final = 365 * 86_400.0
"""grpc reports a very long time for calls without a deadline."""
T = TypeVar("T")


class InferenceService(GRPCInferenceServiceServicer):
    """The service of the protocol: every method returns its response, or aborts with the code that the error carries. A
    cancelled call cancels its rows."""

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        limits: Limits,
        ready: Callable[[], bool],
        *,
        repository_control: bool,
    ) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._limits = limits
        self._ready = ready
        self._repository_control = repository_control

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._ready())

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        ready = await self._checked(request, context, lambda: self._engine.model_ready(request.name))
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return ParseDict(self._catalogue.server(), pb.ServerMetadataResponse())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        body = await self._checked(request, context, lambda: self._catalogue.metadata(request.name))
        return ParseDict(body, pb.ModelMetadataResponse())

    async def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        body = await self._checked(request, context, lambda: self._catalogue.config(request.name))
        return ParseDict({"config": body}, pb.ModelConfigResponse())

    async def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.name:
            body = await self._checked(request, context, lambda: self._catalogue.statistics(request.name))
        else:
            body = self._catalogue.statistics(None)
        return ParseDict(body, pb.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802
        models = self._catalogue.index(ready_only=request.ready)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._control(request.model_name, context, self._engine.load)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._control(request.model_name, context, self._engine.unload)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        response, result = await self._or_abort(context, lambda: self._infer(request, context), request.model_name)
        await context.send_initial_metadata(self._metadata(request.model_name, result))
        return response

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """One response for each request, in their order; an error is a response too and the stream goes on."""
        async for request in request_iterator:
            try:
                response, _ = await self._infer(request, context)
                yield pb.ModelStreamInferResponse(infer_response=response)
            except InferenceError as error:
                failed = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                yield pb.ModelStreamInferResponse(error_message=str(error), infer_response=failed)

    # --- how ---------------------------------------------------------------------------------------

    async def _infer(self, request: Any, context: Any) -> tuple[Any, InferResult]:
        arrival = self._engine.clock()
        self._catalogue.check(request.model_name, request.model_version)
        parsed = messages.parse(request, arrival, _time_left(context), self._limits)
        result = await self._engine.infer(parsed)
        return messages.response(parsed, VERSION, result), result

    async def _checked(self, request: Any, context: Any, make: Callable[[], T]) -> T:
        async def act() -> T:
            self._catalogue.check(request.name, request.version)
            return make()

        return await self._or_abort(context, act)

    async def _control(self, model: str, context: Any, act: Callable[[str], Awaitable[None]]) -> None:
        if not self._repository_control:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "loading and unloading is off here; set spec.repositoryControl: true in the ModelDeployment",
            )

        async def checked() -> None:
            self._catalogue.check(model)
            await act(model)

        await self._or_abort(context, checked)

    async def _or_abort(self, context: Any, act: Callable[[], Awaitable[T]], model: str = "") -> T:
        try:
            return await act()
        except InferenceError as error:
            retry_after = error.retry_after_header
            metadata = [(HEADER_EXPECTED_WAIT, str(self._catalogue.expected_wait_ms(model)))]
            metadata += [] if retry_after is None else [("retry-after", retry_after)]
            await context.abort(grpc.StatusCode[error.grpc_code], str(error), trailing_metadata=tuple(metadata))
        except Exception:
            if not context.done():
                _LOG.exception("a gRPC call failed")
                await context.abort(grpc.StatusCode.INTERNAL, "internal error; the sidecar's log has the details")
            raise
        raise AssertionError("abort always raises")

    def _metadata(self, model: str, result: InferResult) -> tuple[tuple[str, str], ...]:
        return (
            (HEADER_BATCH_SIZE, str(result.batch_size)),
            (HEADER_EXPECTED_WAIT, str(self._catalogue.expected_wait_ms(model))),
        )


def _time_left(context: Any) -> float | None:
    left = context.time_remaining()
    return None if left is None or left > _FOREVER_S else max(0.0, left)


def grpc_server(service: InferenceService, limits: Limits, address: str) -> tuple[Any, int]:
    """A server that is not started yet, and the port it is bound to. Raises RuntimeError if the port is taken."""
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),  # outputs are as large as the model makes them
            ("grpc.max_metadata_size", limits.header_bytes),
            ("grpc.so_reuseport", 0),  # else a second server on the port would be given half of its calls
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        )
    )
    add_GRPCInferenceServiceServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    return server, server.add_insecure_port(address)
