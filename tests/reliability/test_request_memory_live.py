"""Many large bodies at once against a small sidecar: refusals, and never more memory than the container has."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from pathlib import Path

import grpc
import pytest

from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.oip.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.protocol.serving import Served, emulated_model, manifest, serving
from tests.reliability.usage import family

CONTAINER = 256 << 20
CALLERS = 1000
FEATURES = 150_000
"""Of FP32: 600 kB."""


def peak_bytes(pid: int) -> int:
    """The most that the process was ever resident with, its shared memory included."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:"))


def body() -> bytes:
    size = FEATURES * 4
    header = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,%d],"parameters":{"binary_data_size":%d}}],'
        b'"parameters":{"binary_data_output":true}}' % (FEATURES, size)
    )
    head = (
        b"POST /v2/models/wide/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        b"Inference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (len(header), len(header) + size)
    )
    return head + header + bytes(size)


async def call(port: int, whole: bytes) -> tuple[int, bytes]:
    """Status and head of the response; the body is sent as far as the server takes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(whole)
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split()[1]), head + await reader.read()
    finally:
        writer.transport.abort()


@pytest.mark.slow
def test_a_thousand_large_bodies_do_not_cost_the_container_its_life(tmp_path: Path) -> None:
    model = emulated_model("wide", fixed_ms=20)
    model["inputs"] = [{"name": "x", "datatype": "FP32", "shape": [FEATURES]}]
    whole = body()

    async def storm(port: int) -> list[tuple[int, bytes]]:
        answers: list[tuple[int, bytes]] = []

        async def caller() -> None:
            answers.extend([await call(port, whole) for _ in range(3)])

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return answers

    with serving(tmp_path, manifest("wide", [model]), f"--sidecar-option=--memory-bytes={CONTAINER}") as served:
        sidecar = family(served.process.pid)["sidecar"]
        before = resident_bytes(sidecar)
        answers = asyncio.run(storm(served.http))
        peak = peak_bytes(sidecar)
        assert _held(served) == 0
    statuses = Counter(status for status, _ in answers)
    print(f"before {before >> 20} MiB, peak {peak >> 20} MiB of {CONTAINER >> 20}; {statuses}")
    assert set(statuses) == {200, 503}
    assert statuses[200] > 100
    refused = next(text for status, text in answers if status == 503)
    assert b"requestMemoryBytes allows" in refused
    assert b"retry-after: 1" in refused
    assert peak < CONTAINER


def _held(served: Served) -> float:
    text = served.get("/metrics")[2].decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("batchwright_request_memory_b"))


def test_idle_connections_have_no_buffers(tmp_path: Path) -> None:
    with serving(tmp_path, manifest("idle", [emulated_model("m", fixed_ms=1)])) as served:
        sidecar = family(served.process.pid)["sidecar"]
        before, idle = resident_bytes(sidecar), []
        for _ in range(500):
            connection = socket.create_connection(("127.0.0.1", served.http))
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            idle.append(connection)
        assert all(connection.recv(4096).startswith(b"HTTP/1.1 200") for connection in idle)
        grown = resident_bytes(sidecar) - before
        for connection in idle:
            connection.close()
    print(f"500 idle connections: {grown / 500 / 1024:.1f} KiB each")
    assert grown < 500 * 32_768


def test_grpc_calls_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = emulated_model("wide", fixed_ms=200, maxSize=1)
    model["inputs"] = [{"name": "x", "datatype": "FP32", "shape": [FEATURES]}]

    async def calls(port: int) -> list[str]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            message = pb.ModelInferRequest(model_name="wide", raw_input_contents=[bytes(FEATURES * 4)])
            message.inputs.add(name="x", datatype="FP32", shape=[1, FEATURES])

            async def call() -> str:
                try:
                    await infer(message)
                except grpc.aio.AioRpcError as error:
                    return f"{error.code().name}: {error.details()}"
                return "OK"

            return await asyncio.gather(*(call() for _ in range(20)))

    option = "--sidecar-option=--request-memory-bytes=4000000"
    with serving(tmp_path, manifest("wide", [model]), option) as served:
        answers = asyncio.run(calls(served.grpc))
        assert _held(served) == 0
    refused = [answer for answer in answers if answer != "OK"]
    assert 0 < len(refused) < 20
    assert all(answer.startswith("RESOURCE_EXHAUSTED: ") and "requestMemoryBytes" in answer for answer in refused)
