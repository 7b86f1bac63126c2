"""Bodies that take long to read or to write, in a process of their own: what one caller sends must not hold up the
event loop, and with it everybody else.

JSON numbers and strings become Python objects one by one, with the interpreter's lock held: a thread would hold up the
loop as well. So a thread hands the bytes to a helper process (`decoder`), one after the other, and gets arrays as raw
bytes back. The helper is started when the first such body comes, and may take `memory_bytes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferRequest
from batchwright_worker.oip.datatypes import name_of, numpy_of
from batchwright_worker.oip.encoded_bytes import EncodedBytes, as_array, encoded
from batchwright_worker.protocol.classification import WantedClasses
from batchwright_worker.protocol.limits import Limits

LARGE_BYTES: Final = 1 << 18
"""From here on a body is read apart: 256 kB of JSON take 2 ms, of short strings 4 ms; the way to the helper and back
takes 1 ms."""
LARGE_ELEMENTS: Final = 20_000
"""From here on elements are written as JSON, or sorted for their classes, apart: about as many bytes."""
DEFAULT_MEMORY_BYTES: Final = 256 << 20
TOO_MUCH_MEMORY: Final = (
    "the body could not be decoded: that takes more memory than there is for it; "
    "send fewer rows at a time, or tensors as binary data"
)
_HELPER: Final = "batchwright_worker.protocol.decoder"


class FramedTensor(msgspec.Struct, array_like=True):
    """A tensor whose bytes follow in a frame of their own; those of BYTES in two, the elements' ends behind."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ReadHttp(msgspec.Struct, tag=True):
    """Read the body of an infer request over HTTP, which follows."""

    model: str
    header_length: bytes | None
    limits: Limits


class ReadGrpc(msgspec.Struct, tag=True):
    """Read a ModelInferRequest, which follows."""

    limits: Limits


class WriteHttp(msgspec.Struct, tag=True):
    """Write the body of a response, whose tensors follow."""

    model: str
    version: str
    request_id: str
    binary: Mapping[str, bool]
    binary_default: bool
    outputs: list[FramedTensor]


class Classify(msgspec.Struct, tag=True):
    """Sort outputs, which follow, and write their classes."""

    wanted: WantedClasses
    outputs: list[FramedTensor]


Job = ReadHttp | ReadGrpc | WriteHttp | Classify


class WasRead(msgspec.Struct, tag=True):
    """A request: the fields of its InferRequest but for the tensors, which follow; its deadline counts from 0."""

    fields: dict[str, Any]
    inputs: list[FramedTensor]
    binary: dict[str, bool]
    binary_default: bool
    classes: dict[str, int] | None = None


class WasClassified(msgspec.Struct, tag=True):
    """Classes, which follow."""

    outputs: list[FramedTensor]


class WasWritten(msgspec.Struct, tag=True):
    """A response's body follows; the length of its JSON part where binary data follow that."""

    json_bytes: int | None


class WasBad(msgspec.Struct, tag=True):
    """A BadInput."""

    message: str
    input_name: str = ""
    wanted: str = ""
    given: str = ""


T = TypeVar("T")
Outcome = WasRead | WasClassified | WasWritten | WasBad
_OUTCOME: Final = msgspec.msgpack.Decoder(Outcome)
Frames = Sequence[bytes | memoryview]


class LargeBodies:
    """The helper as the front ends see it. Use it from one event loop."""

    def __init__(self, memory_bytes: int = DEFAULT_MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._thread: ThreadPoolExecutor | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def read_http(
        self, model: str, body: memoryview, header_length: bytes | None, limits: Limits
    ) -> asyncio.Future[tuple[WasRead, dict[str, Array]]]:
        """See `json_bodies.parse`. The body must stay as it is until this is done. Raises (when awaited) BadInput."""
        return self._later(_read, ReadHttp(model, header_length, limits), [body])

    def read_grpc(self, message: bytes, limits: Limits) -> asyncio.Future[tuple[WasRead, dict[str, Array]]]:
        """See `grpc/messages.parse`. Raises (when awaited) BadInput."""
        return self._later(_read, ReadGrpc(limits), [message])

    def write_http(self, job: WriteHttp, outputs: Mapping[str, Array]) -> asyncio.Future[tuple[bytes, int | None]]:
        """See `json_bodies.response`; `job.outputs` are filled in. Raises (when awaited) BadInput."""
        return self._later(_written, msgspec.structs.replace(job, outputs=heads_of(outputs)), frames_of(outputs, False))

    def classify(self, outputs: Mapping[str, Array], wanted: WantedClasses) -> asyncio.Future[dict[str, Array]]:
        """See `classification.classes_of`. Raises (when awaited) BadInput."""
        return self._later(_classified, Classify(wanted, heads_of(outputs)), frames_of(outputs, False))

    def close(self) -> None:
        """End the helper."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()

    def _later(self, make: Callable[[Outcome, Connection], T], job: Job, frames: Frames) -> asyncio.Future[T]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "large-bodies")
        return asyncio.get_running_loop().run_in_executor(self._thread, self._done, make, job, frames)

    # --- in the thread ---

    def _done(self, make: Callable[[Outcome, Connection], T], job: Job, frames: Frames) -> T:
        """Raises BadInput."""
        encoded = msgspec.msgpack.encode(job)
        for _ in range(2):
            with contextlib.suppress(EOFError, OSError):
                return make(*self._asked([encoded, *frames]))
            self._forget()
        raise BadInput(TOO_MUCH_MEMORY)

    def _asked(self, frames: Frames) -> tuple[Outcome, Connection]:
        connection = self._connected()
        for frame in frames:
            connection.send_bytes(frame)
        return _OUTCOME.decode(connection.recv_bytes()), connection

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection, theirs = multiprocessing.Pipe()
            with theirs:
                command = [sys.executable, "-m", _HELPER, str(theirs.fileno()), str(os.getpid())]
                self._process = subprocess.Popen(
                    [*command, str(self._memory_bytes)], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
        return self._connection

    def _forget(self) -> None:
        """The helper is gone, or is to go."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def heads_of(arrays: Mapping[str, Array]) -> list[FramedTensor]:
    """What is said of arrays before their frames."""
    return [FramedTensor(name, name_of(array.dtype), tuple(array.shape)) for name, array in arrays.items()]


def frames_of(arrays: Mapping[str, Array], ends: bool) -> list[bytes | memoryview]:
    """The frames of arrays; of BYTES with the elements' ends where these are wanted."""
    frames: list[bytes | memoryview] = []
    for array in arrays.values():
        if not array.dtype.hasobject and array.dtype.kind not in "SU":
            frames.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b"")
            continue
        elements = encoded(array)
        frames.append(elements.data)
        if ends:
            frames.append(elements.ends.data.cast("B") if elements.size else b"")
    return frames


def arrays_of(heads: Sequence[FramedTensor], connection: Connection, ends: bool) -> dict[str, Array]:
    """The arrays whose frames follow."""
    arrays: dict[str, Array] = {}
    for head in heads:
        data = connection.recv_bytes()
        if head.datatype == "BYTES":
            known = np.frombuffer(connection.recv_bytes(), dtype=np.int64) if ends else None
            arrays[head.name] = as_array(EncodedBytes(data, head.shape, known))
        else:
            arrays[head.name] = np.frombuffer(data, dtype=numpy_of(head.datatype)).reshape(head.shape)
    return arrays


def request_of(was_read: WasRead, inputs: Mapping[str, Array], arrival: float) -> InferRequest:
    """The request that was read."""
    fields = dict(was_read.fields)
    if fields.get("deadline") is not None:
        fields["deadline"] += arrival
    fields["outputs"] = tuple(fields["outputs"])
    return InferRequest(inputs=inputs, arrival=arrival, **fields)


def fields_of(request: InferRequest) -> dict[str, Any]:
    """What `request_of` needs; the request's arrival is 0."""
    fields = msgspec.structs.asdict(request)
    for name in ("inputs", "arrival", "template"):
        del fields[name]
    return fields


def _read(outcome: Outcome, connection: Connection) -> tuple[WasRead, dict[str, Array]]:
    if not isinstance(outcome, WasRead):
        raise _bad(outcome)
    return outcome, arrays_of(outcome.inputs, connection, True)


def _classified(outcome: Outcome, connection: Connection) -> dict[str, Array]:
    if not isinstance(outcome, WasClassified):
        raise _bad(outcome)
    return arrays_of(outcome.outputs, connection, True)


def _written(outcome: Outcome, connection: Connection) -> tuple[bytes, int | None]:
    if not isinstance(outcome, WasWritten):
        raise _bad(outcome)
    return connection.recv_bytes(), outcome.json_bytes


def _bad(outcome: Outcome) -> BadInput:
    assert isinstance(outcome, WasBad)
    return BadInput(outcome.message, input_name=outcome.input_name, wanted=outcome.wanted, given=outcome.given)
