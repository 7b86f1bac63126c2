"""The gRPC port: Open Inference Protocol v2 on grpc.aio, for clients that speak nothing else (HTTP is far cheaper)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

import grpc
from google.protobuf.json_format import ParseDict

from batchwright_worker.api.names import HEADER_BATCH_SIZE, HEADER_EXPECTED_WAIT
from batchwright_worker.engine.engine import Engine
from batchwright_worker.inference.errors import BadInput, InferenceError
from batchwright_worker.inference.requests import Array, InferResult
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from batchwright_worker.protocol.catalogue import Catalogue
from batchwright_worker.protocol.classification import classes_of, to_classify, with_classes
from batchwright_worker.protocol.grpc import messages
from batchwright_worker.protocol.grpc.bursts import Bursts, SubmittedCall
from batchwright_worker.protocol.grpc.region_calls import RegionCalls
from batchwright_worker.protocol.grpc.setting_calls import log_setting, trace_setting
from batchwright_worker.protocol.grpc.unreadable import UNREADABLE, WHY, Registrar
from batchwright_worker.protocol.large_bodies import LARGE_BYTES, LARGE_ELEMENTS, LargeBodies, WasRead, request_of
from batchwright_worker.protocol.limits import Limits
from batchwright_worker.protocol.load_overrides import take_overrides
from batchwright_worker.protocol.parameters import check_unload
from batchwright_worker.protocol.request_memory import RequestMemory
from batchwright_worker.protocol.shared_memory import Regions
from batchwright_worker.protocol.tensors import check_counts
from batchwright_worker.protocol.tls import Certificates

_LOG = logging.getLogger(__name__)
_FOREVER_S: Final = 365 * 86_400.0
"""grpc reports a very long time for calls without a deadline."""
STREAM_REQUESTS: Final = 256
"""How many requests of one stream are taken before their answers are on the way; further ones wait in the client."""
CLIENT_PING_MS: Final = 500
"""Clients that set a second are late or early by some."""
_INTERNAL: Final = "internal error; the sidecar's log has the details"
T = TypeVar("T")
ReadApart = tuple[WasRead, dict[str, Array]]


class InferenceService(RegionCalls):
    """The service of the protocol: every method returns its response, or aborts with the code that the error carries. A
    cancelled call cancels its rows."""

    bursts: ClassVar[type[Bursts]] = Bursts

    def __init__(  # noqa: PLR0913 - the parts of the process that it answers for
        self,
        engine: Engine,
        catalogue: Catalogue,
        limits: Limits,
        ready: Callable[[], bool],
        *,
        repository_control: bool,
        memory: RequestMemory | None = None,
        large: LargeBodies | None = None,
        regions: Regions | None = None,
    ) -> None:
        super().__init__(regions)
        self._memory = memory or RequestMemory()
        self._large = large or LargeBodies()
        self._engine = engine
        self._catalogue = catalogue
        self._limits = limits
        self._ready = ready
        self._repository_control = repository_control
        self._bursts = self.bursts(engine)

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
        take = partial(take_overrides, self._catalogue, request.model_name)
        await self._control(request, context, take, self._engine.load)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._control(request, context, check_unload, self._engine.unload)
        return pb.RepositoryModelUnloadResponse()

    async def TraceSetting(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._or_abort(context, partial(trace_setting, request, self._catalogue))

    async def LogSettings(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._or_abort(context, partial(log_setting, request))

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        response, result = await self._or_abort(context, lambda: self._inferred(request, context), request.model_name)
        # Behind the response: a second batch of operations in front of it costs a fifth of the call.
        context.set_trailing_metadata(self._metadata(request.model_name, result))
        return response

    async def ModelStreamInfer(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """One response for each request, in their order; an error is a response too and the stream goes on. Requests
        that the client sends ahead run together."""
        room = asyncio.Semaphore(STREAM_REQUESTS)
        asked: asyncio.Queue[SubmittedCall | pb.ModelStreamInferResponse | None] = asyncio.Queue()
        reading = asyncio.create_task(self._read_stream(request_iterator, context, room, asked))
        try:
            while (call := await asked.get()) is not None:
                yield await self._streamed(call) if isinstance(call, SubmittedCall) else call
                room.release()
        finally:
            reading.cancel()
            while not asked.empty():
                if isinstance(call := asked.get_nowait(), SubmittedCall):
                    self._bursts.cancel(call)

    # --- how ---------------------------------------------------------------------------------------

    async def _inferred(self, message: Any, context: Any) -> tuple[Any, InferResult]:
        return await self._answered(self._submit(message, context, await self._read_apart(message)))

    async def _read_apart(self, message: Any) -> ReadApart | None:
        """A large message of many elements; None for what is read at once, as what may name a region, which only this
        process has. Raises BadInput."""
        check_counts(len(message.inputs), len(message.outputs), self._limits)
        if not any(tensor.datatype == "BYTES" or tensor.HasField("contents") for tensor in message.inputs):
            return None
        if self._regions is not None and messages.names_a_region(message):
            return None
        serialized = message.SerializeToString()
        return None if len(serialized) <= LARGE_BYTES else await self._large.read_grpc(serialized, self._limits)

    def _submit(self, message: Any, context: Any, apart: ReadApart | None) -> SubmittedCall:
        """Raises InferenceError for what is not taken."""
        arrival, left_s = self._engine.clock(), _time_left(context)
        self._catalogue.check(message.model_name, message.model_version)
        if apart is None:
            request = messages.parse(message, arrival, left_s, self._limits, self._regions)
        else:
            request = messages.due_within(request_of(*apart, arrival), left_s)
        classes = messages.classes_in(message)
        held = sum(array.nbytes for array in request.inputs.values())
        self._memory.hold(held)
        call = self._bursts.add(request)
        call.classes = classes
        if self._regions is not None:
            call.places = messages.places_of(message)
        call.outcome.add_done_callback(lambda _: self._memory.release(held))
        return call

    async def _answered(self, call: SubmittedCall) -> tuple[Any, InferResult]:
        """The response. Raises InferenceError; cancelled, it cancels the call's rows."""
        try:
            outcome = await call.outcome
        except asyncio.CancelledError:
            self._bursts.cancel(call)
            raise
        if isinstance(outcome, InferenceError):
            raise outcome
        if call.classes:
            outcome = with_classes(outcome, await self._classes(call.request.model, call.classes, outcome))
        version = self._catalogue.version(call.request.model)
        return messages.response(call.request, version, outcome, call.places, self._regions), outcome

    async def _classes(self, model: str, of: Mapping[str, int], result: InferResult) -> dict[str, Array]:
        wanted = self._catalogue.wanted_classes(model, of)
        scores = to_classify(result.outputs, wanted)
        if sum(array.size for array in scores.values()) <= LARGE_ELEMENTS:
            return classes_of(scores, wanted)
        return await self._large.classify(scores, wanted)

    async def _read_stream(
        self,
        requests: AsyncIterator[Any],
        context: Any,
        room: asyncio.Semaphore,
        asked: asyncio.Queue[SubmittedCall | pb.ModelStreamInferResponse | None],
    ) -> None:
        """Submit every request of a stream; None after the last one."""
        try:
            async for message in requests:
                if message is UNREADABLE:
                    asked.put_nowait(_failed(BadInput(WHY), "", ""))
                    await room.acquire()
                    continue
                try:
                    asked.put_nowait(self._submit(message, context, await self._read_apart(message)))
                except Exception as error:
                    asked.put_nowait(_failed(error, message.model_name, message.id))
                await room.acquire()
        finally:
            asked.put_nowait(None)

    async def _streamed(self, call: SubmittedCall) -> pb.ModelStreamInferResponse:
        try:
            response, _ = await self._answered(call)
        except Exception as error:
            return _failed(error, call.request.model, call.request.request_id)
        response.parameters["triton_final_response"].bool_param = True  # clients of decoupled models wait for it
        return pb.ModelStreamInferResponse(infer_response=response)

    async def _checked(self, request: Any, context: Any, make: Callable[[], T]) -> T:
        async def act() -> T:
            self._catalogue.check(request.name, request.version)
            return make()

        return await self._or_abort(context, act)

    async def _control(
        self,
        request: Any,
        context: Any,
        check: Callable[[dict[str, Any]], None],
        act: Callable[[str], Awaitable[None]],
    ) -> None:
        if not self._repository_control:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "loading and unloading is off here; set spec.repositoryControl: true in the ModelDeployment",
            )

        async def checked() -> None:
            self._catalogue.check(request.model_name)
            check(messages.by_name(request.parameters))
            await act(request.model_name)

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
                await context.abort(grpc.StatusCode.INTERNAL, _INTERNAL)
            raise
        raise AssertionError("abort always raises")

    def _metadata(self, model: str, result: InferResult) -> tuple[tuple[str, str], ...]:
        return (
            (HEADER_BATCH_SIZE, str(result.batch_size)),
            (HEADER_EXPECTED_WAIT, str(self._catalogue.expected_wait_ms(model))),
        )


def _failed(error: Exception, model: str, request_id: str) -> pb.ModelStreamInferResponse:
    """An error in a stream."""
    if isinstance(error, InferenceError):
        text = str(error)
    else:
        _LOG.error("a request of a stream failed", exc_info=error)
        text = _INTERNAL
    response = pb.ModelInferResponse(model_name=model, id=request_id)
    return pb.ModelStreamInferResponse(error_message=text, infer_response=response)


def _time_left(context: Any) -> float | None:
    left = context.time_remaining()
    return None if left is None or left > _FOREVER_S else max(0.0, left)


def grpc_server(
    service: InferenceService, limits: Limits, address: str, certificates: Certificates | None = None
) -> tuple[Any, int]:
    """A server that is not started yet, and the port it is bound to; by TLS where there are certificates. Raises
    RuntimeError if the port is taken."""
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limits.body_bytes),
            ("grpc.max_send_message_length", -1),  # outputs are as large as the model makes them
            ("grpc.max_metadata_size", limits.header_bytes),
            ("grpc.so_reuseport", 0),  # else a second server on the port would be given half of its calls
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # Pings of clients, during a call and without one: many ping every few seconds to keep a way through load
            # balancers open, and more than two pings sooner than this end the connection with its calls.
            ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MS),
            ("grpc.keepalive_permit_without_calls", 1),
        )
    )
    add_GRPCInferenceServiceServicer_to_server(service, Registrar(server))  # type: ignore[no-untyped-call]
    if certificates is None:
        return server, server.add_insecure_port(address)
    return server, server.add_secure_port(address, certificates.grpc_credentials())
