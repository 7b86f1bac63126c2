"""The helper process of `large_bodies`: reads and writes one body after the other, until its parent is gone."""

from __future__ import annotations

import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import msgspec

from batchwright_worker.host.process import die_with_parent
from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import InferRequest, InferResult
from batchwright_worker.oip import inference_pb2 as pb
from batchwright_worker.protocol import json_bodies
from batchwright_worker.protocol.classification import classes_of
from batchwright_worker.protocol.grpc import messages
from batchwright_worker.protocol.json_bodies import ParsedRequest
from batchwright_worker.protocol.large_bodies import (
    TOO_MUCH_MEMORY,
    Classify,
    Frames,
    Job,
    ReadGrpc,
    ReadHttp,
    WasBad,
    WasClassified,
    WasRead,
    WasWritten,
    WriteHttp,
    arrays_of,
    fields_of,
    frames_of,
    heads_of,
)

_JOB: Final = msgspec.msgpack.Decoder(Job)


def main(descriptor: int, parent: int, memory_bytes: int) -> None:
    """Until the connection ends."""
    die_with_parent(parent)
    _bound_memory(memory_bytes)
    with Connection(descriptor) as connection:
        while True:
            try:
                job = _JOB.decode(connection.recv_bytes())
                frames = _done(job, connection)
            except EOFError:
                return
            except MemoryError:
                # Frames may be left that nobody reads: the next helper begins with the next body.
                connection.send_bytes(msgspec.msgpack.encode(WasBad(TOO_MUCH_MEMORY)))
                return
            except BadInput as error:
                bad = WasBad(str(error), error.input_name, error.wanted, error.given)
                frames = [msgspec.msgpack.encode(bad)]
            for frame in frames:
                connection.send_bytes(frame)


def _done(job: Job, connection: Connection) -> Frames:
    """Raises BadInput, EOFError."""
    match job:
        case ReadHttp(model=model, header_length=header_length, limits=limits):
            body = connection.recv_bytes()
            return _read(json_bodies.parse(model, body, header_length, 0.0, limits))
        case ReadGrpc(limits=limits):
            message = pb.ModelInferRequest.FromString(connection.recv_bytes())
            request = messages.parse(message, 0.0, None, limits)
            return _read(ParsedRequest(request=request, binary={}, binary_default=True))
        case Classify():
            classes = classes_of(arrays_of(job.outputs, connection, False), job.wanted)
            return [msgspec.msgpack.encode(WasClassified(heads_of(classes))), *frames_of(classes, True)]
        case WriteHttp():
            outputs = arrays_of(job.outputs, connection, False)
            request = InferRequest(model=job.model, inputs={}, rows=1, arrival=0.0, request_id=job.request_id)
            parsed = ParsedRequest(request=request, binary=job.binary, binary_default=job.binary_default)
            result = InferResult(outputs=outputs, batch_size=0, queue_ms=0.0, run_ms=0.0)
            body, json_bytes = json_bodies.response(parsed, job.version, result)
            return [msgspec.msgpack.encode(WasWritten(json_bytes)), body]


def _read(parsed: ParsedRequest) -> Frames:
    inputs = parsed.request.inputs
    classes = None if parsed.classes is None else dict(parsed.classes)
    head = WasRead(fields_of(parsed.request), heads_of(inputs), dict(parsed.binary), parsed.binary_default, classes)
    return [msgspec.msgpack.encode(head), *frames_of(inputs, True)]


def _bound_memory(more_bytes: int) -> None:
    """A body that takes more fails by itself (its sender is told), instead of costing
    the container its life."""
    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (now + more_bytes, now + more_bytes))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
