"""The calls of the shared memory extensions over gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from batchwright_worker.inference.errors import InferenceError
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceServicer
from batchwright_worker.protocol.shared_memory import CUDA, OFF, Regions


class RegionCalls(GRPCInferenceServiceServicer):
    """Of one service; UNIMPLEMENTED where shared memory is not served."""

    def __init__(self, regions: Regions | None) -> None:
        self._regions = regions

    async def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        regions = await self._served(context)
        try:
            found = regions.status(request.name)
        except InferenceError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        known = {one["name"]: pb.SystemSharedMemoryStatusResponse.RegionStatus(**one) for one in found}
        return pb.SystemSharedMemoryStatusResponse(regions=known)

    async def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:  # noqa: N802
        regions = await self._served(context)
        try:
            regions.register(request.name, request.key, request.offset, request.byte_size)
        except InferenceError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:  # noqa: N802
        (await self._served(context)).unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def CudaSharedMemoryStatus(self, _request: Any, context: Any) -> Any:  # noqa: N802
        await self._served(context)
        return pb.CudaSharedMemoryStatusResponse()

    async def CudaSharedMemoryRegister(self, _request: Any, context: Any) -> Any:  # noqa: N802
        await self._served(context)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, CUDA)

    async def CudaSharedMemoryUnregister(self, _request: Any, context: Any) -> Any:  # noqa: N802
        await self._served(context)  # clients unregister all of both kinds before they begin
        return pb.CudaSharedMemoryUnregisterResponse()

    async def _served(self, context: Any) -> Regions:
        if self._regions is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, OFF)
            raise AssertionError("abort always raises")
        return self._regions
