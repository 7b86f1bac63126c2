"""Large JSON and BYTES bodies are read and written apart, and come out as they do otherwise."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.inference.requests import Array, InferRequest
from batchwright_worker.oip.datatypes import decode_bytes, encode_bytes, encoded_size
from batchwright_worker.oip.encoded_bytes import BadBytesError, EncodedBytes, as_array, checked, encoded, joined
from batchwright_worker.protocol import json_bodies
from batchwright_worker.protocol.classification import WantedClasses, classes_of
from batchwright_worker.protocol.large_bodies import LargeBodies, WriteHttp, request_of
from batchwright_worker.protocol.limits import Limits
from tests.protocol.serving import Served

LIMITS = Limits()


@pytest_asyncio.fixture
async def apart() -> AsyncIterator[LargeBodies]:
    helper = LargeBodies()
    yield helper
    helper.close()


def body_of(**tensors: tuple[str, list[int], Any]) -> bytes:
    inputs = [{"name": n, "datatype": d, "shape": s, "data": data} for n, (d, s, data) in tensors.items()]
    return json.dumps({"id": "7", "inputs": inputs, "parameters": {"timeout": 5_000_000, "priority": 3}}).encode()


async def read(apart: LargeBodies, body: bytes) -> InferRequest:
    was_read, inputs = await apart.read_http("m", memoryview(body), None, LIMITS)
    return request_of(was_read, inputs, 100.0)


async def test_a_body_is_read_apart_as_it_is_read_here(apart: LargeBodies) -> None:
    body = body_of(
        x=("FP32", [2, 3], [0.1, 2, 3, 4, 5, 6]), s=("BYTES", [2, 1], ["a", "bcd"]), i=("INT64", [2], [1 << 62, -1])
    )
    mine, theirs = await read(apart, body), json_bodies.parse("m", body, None, 100.0, LIMITS).request
    assert {name: array.tolist() for name, array in mine.inputs.items()} == {
        name: array.tolist() for name, array in theirs.inputs.items()
    }
    assert {name: array.dtype for name, array in mine.inputs.items()} == {
        name: array.dtype for name, array in theirs.inputs.items()
    }
    fields = ("model", "rows", "arrival", "deadline", "priority", "request_id", "outputs")
    assert [getattr(mine, name) for name in fields] == [getattr(theirs, name) for name in fields]


async def test_what_is_bad_is_said_as_it_is_said_here(apart: LargeBodies) -> None:
    for body in (b"{", body_of(x=("FP32", [2], [1])), body_of(x=("INT8", [1], [300]))):
        with pytest.raises(BadInput) as here:
            json_bodies.parse("m", body, None, 0.0, LIMITS)
        with pytest.raises(BadInput) as there:
            await apart.read_http("m", memoryview(body), None, LIMITS)
        assert (str(there.value), there.value.input_name) == (str(here.value), here.value.input_name)


async def test_a_response_is_written_apart_as_it_is_written_here(apart: LargeBodies) -> None:
    outputs: dict[str, Array] = {
        "y": np.array([[1.5, float("nan")]], dtype=np.float32),
        "s": as_array(encoded(np.array([[b"a", "ü"]], dtype=object))),
        "raw": np.array([[1, 2]], dtype=np.float16),
    }
    job = WriteHttp("m", "1", "id", {"raw": True}, False, [])
    body, json_bytes = await apart.write_http(job, outputs)
    assert json_bytes is not None
    shown = {each["name"]: each.get("data") for each in json.loads(body[:json_bytes])["outputs"]}
    assert shown["s"] == ["a", "ü"]
    assert shown["y"][0] == 1.5
    assert body[json_bytes:] == outputs["raw"].tobytes()


async def test_classes_that_are_wanted_are_read_apart_too(apart: LargeBodies) -> None:
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    body = json.dumps({**asked, "outputs": [{"name": "y", "parameters": {"classification": 3}}]}).encode()
    was_read, _ = await apart.read_http("m", memoryview(body), None, LIMITS)
    assert was_read.classes == {"y": 3}


async def test_large_outputs_are_sorted_apart_as_they_are_here(apart: LargeBodies) -> None:
    scores = {
        "y": np.random.default_rng(1).normal(size=(2, 3000)).astype(np.float32),
        "whole": np.array([3, 1, 2], np.int64),
    }
    wanted = WantedClasses(of={"y": 5, "whole": 2}, labels={"whole": ("a", "b")}, without_rows=frozenset({"whole"}))
    found, here = await apart.classify(scores, wanted), classes_of(scores, wanted)
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in here.items()
    }
    with pytest.raises(BadInput, match="only numbers have classes"):
        await apart.classify({"y": as_array(encoded(np.array([[b"a"]], dtype=object)))}, wanted)


async def test_a_helper_that_dies_is_replaced(apart: LargeBodies) -> None:
    body = body_of(x=("FP32", [1], [1]))
    await read(apart, body)
    assert apart._process is not None
    os.kill(apart._process.pid, signal.SIGKILL)
    apart._process.wait()
    assert (await read(apart, body)).rows == 1


async def test_a_body_that_takes_too_much_memory_is_its_senders_trouble() -> None:
    helper = LargeBodies(memory_bytes=16 << 20)
    huge = body_of(x=("INT64", [2_000_000], [0] * 2_000_000))
    limits = Limits()
    with pytest.raises(BadInput, match="takes more memory"):
        await helper.read_http("m", memoryview(huge), None, limits)
    assert (await read(helper, body_of(x=("FP32", [1], [1])))).rows == 1
    helper.close()


async def test_the_event_loop_goes_on_meanwhile(apart: LargeBodies) -> None:
    """Many more rounds of the loop than a body that is read in it would leave."""
    body = body_of(x=("FP32", [1, 500_000], [0.123456789] * 500_000))
    await read(apart, body_of(x=("FP32", [1], [1])))
    reading, rounds = asyncio.ensure_future(read(apart, body)), 0
    while not reading.done():
        await asyncio.sleep(0.001)
        rounds += 1
    assert reading.result().inputs["x"].size == 500_000
    assert rounds > 10


strings = st.lists(st.binary(max_size=9), max_size=24)


@given(strings, st.integers(1, 4), st.integers(-3, 30), st.integers(-3, 30))
def test_rows_of_encoded_strings_are_those_of_the_array(
    values: list[bytes], columns: int, start: int, stop: int
) -> None:
    values = values[: len(values) // columns * columns]
    plain = np.empty(len(values), dtype=object)
    plain[:] = values
    plain = plain.reshape(-1, columns)
    data = encode_bytes(plain)
    for mine in (checked(data, plain.size).reshape(-1, columns), EncodedBytes(data, plain.shape), encoded(plain)):
        part = mine[start:stop]
        assert part.shape == plain[start:stop].shape
        assert part.tolist() == plain[start:stop].tolist()
        assert encode_bytes(as_array(part)) == encode_bytes(plain[start:stop])
        assert encoded_size(as_array(part)) == len(encode_bytes(plain[start:stop]))
        pieces = [as_array(mine[:stop]), as_array(mine[:start])]
        assert joined(pieces).tolist() == np.concatenate([plain[:stop], plain[:start]]).tolist()
        assert np.asarray(mine).tolist() == plain.tolist()


@given(st.binary(max_size=40), st.integers(0, 12))
def test_bytes_that_do_not_add_up_are_refused_alike(data: bytes, count: int) -> None:
    assert outcome(checked, data, count) == outcome(decode_bytes, data, count)


def outcome(decode: Callable[[bytes, int], Any], data: bytes, count: int) -> object:
    try:
        return decode(data, count).tolist()
    except BadBytesError as error:
        return str(error)


def test_large_strings_over_grpc_come_back_as_they_went(served: Served) -> None:
    import tritonclient.grpc as triton

    values = np.array([b"%d" % number for number in range(60_000)], dtype=object).reshape(3, -1)
    tensor = triton.InferInput("x", list(values.shape), "BYTES")
    tensor.set_data_from_numpy(values)
    with triton.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        answer = client.infer("echo-bytes", [tensor]).as_numpy("y")
    assert answer is not None
    assert answer.tolist() == values.tolist()


def test_large_bodies_over_http_come_back_as_they_went(served: Served) -> None:
    values = [number + 0.25 for number in range(120_000)]
    tensor = {"name": "x", "datatype": "FP64", "shape": [2, 60_000], "data": values}
    status, _, body = served.get("/v2/models/echo-fp64/infer", json.dumps({"inputs": [tensor]}).encode())
    assert status == 200
    assert json.loads(body)["outputs"][0]["data"] == values
    metrics = served.get("/metrics")[2].decode().splitlines()
    assert "batchwright_request_memory_bytes 0.0" in metrics
