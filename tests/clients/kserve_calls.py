"""Run by the interpreter of the KServe SDK's own environment: every call that the SDK has, against the ports given.

Prints one JSON object with what came back; an exception is its failure.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request(model: str, rows: np.ndarray, datatype: str, *, binary: bool) -> InferRequest:
    tensor = InferInput("x", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=binary)
    outputs = [RequestedOutput("y", parameters={"binary_data": binary})]
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="k-1", request_outputs=outputs)


async def by_http(url: str, rows: np.ndarray) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    found: dict[str, Any] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "linear"),
    }
    for binary in (False, True):
        answer = await client.infer(url, request("linear", rows, "FP32", binary=binary), model_name="linear")
        found[f"binary={binary}"] = answer.outputs[0].as_numpy().tolist()
        found["id"] = answer.id
    half = rows.astype(np.float16)[:, :3]
    answer = await client.infer(url, request("echo-fp16", half, "FP16", binary=True), model_name="echo-fp16")
    found["fp16"] = answer.outputs[0].as_numpy().tolist()
    words = np.array([[b"a", "straße".encode()]], dtype=object)
    answer = await client.infer(url, request("echo-bytes", words, "BYTES", binary=True), model_name="echo-bytes")
    found["bytes"] = [str(each) for each in answer.outputs[0].as_numpy().ravel()]
    try:
        await client.infer(url, request("linear", rows[:, :3], "FP32", binary=True), model_name="linear")
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    answers = await asyncio.gather(
        *(client.infer(url, request("linear", rows, "FP32", binary=True), model_name="linear") for _ in range(50))
    )
    found["together"] = len({str(each.outputs[0].as_numpy().tolist()) for each in answers})
    await client.close()
    return found


async def by_grpc(url: str, rows: np.ndarray) -> dict[str, Any]:
    client = InferenceGRPCClient(url=url, retries=0)
    found: dict[str, Any] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model_ready": await client.is_model_ready("linear"),
    }
    for binary in (False, True):
        answer = await client.infer(request("linear", rows, "FP32", binary=binary))
        found[f"binary={binary}"] = answer.outputs[0].as_numpy().tolist()
        found["id"] = answer.id
    try:
        await client.infer(request("linear", rows[:, :3], "FP32", binary=True))
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    await client.close()
    return found


async def main(http: str, grpc: str) -> None:
    rows = np.random.default_rng(5).normal(size=(4, 16)).astype(np.float32)
    told = {"version": version("kserve"), "rows": rows.tolist()}
    told |= {"http": await by_http(f"http://127.0.0.1:{http}", rows), "grpc": await by_grpc(f"127.0.0.1:{grpc}", rows)}
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
