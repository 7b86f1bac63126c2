"""Jobs through models whose requests have no rows, or an input that all rows of a request share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.models.call import ModelCall, PendingRows
from batchwright_worker.runner.models.client import ModelClient
from batchwright_worker.runner.models.replicas import Replica, ReplicaSet
from batchwright_worker.runner.models.row_block import asked_rows
from batchwright_worker.runner.models.signature import InputSignature
from batchwright_worker.runner.models.wire import outputs_of, request_parts, signature_of
from batchwright_worker.runner.progress import TaskCounters
from tests.runner.bench import Bench, cpu, model
from tests.runner.serving_rig import replica

METADATA = (
    b'{"name":"m","inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]},{"name":"k","datatype":"FP32","shape":[1]}],'
    b'"outputs":[{"name":"y","datatype":"FP32","shape":[-1,2]}]}'
)
CONFIG = (
    b'{"max_batch_size":%d,"input":[{"name":"x","dims":%s},{"name":"k","dims":[1]}],"output":[{"name":"y","dims":%s}]}'
)
SHARED = signature_of("d", "m", METADATA, CONFIG % (32, b"[2]", b"[2]"))
WHOLE = signature_of("d", "m", METADATA, CONFIG % (0, b"[-1,2]", b"[-1,2]"))


def save(nodes: list[Any], inputs: dict[str, list[Any]], output: list[Any], path: Path) -> str:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    graph = helper.make_graph(nodes, "m", values, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path.as_uri()


def deployment(uri: str, **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "batchwright.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "d"},
        "spec": {"models": [{"name": "m", "artifacts": [{"format": "onnx", "uri": uri}], **fields}]},
    }


def test_what_has_no_batch_dimension_is_known_from_the_configuration() -> None:
    assert [(each.shape, each.batched) for each in SHARED.inputs] == [((2,), True), ((1,), False)]
    assert [(each.shape, each.batched) for each in WHOLE.inputs] == [((-1, 2), False), ((1,), False)]
    assert (SHARED.whole, WHOLE.whole) == (False, True)


def asked(values: list[dict[str, Any]], signature: InputSignature) -> list[PendingRows]:
    rows = asked_rows(BlockValues(range(len(values)), rows=values), range(len(values)), signature)
    return ModelCall(rows, TaskCounters(name="m", kind="Model"), lambda *_: None).pending()


def test_rows_share_a_request_only_where_their_shared_values_are_equal() -> None:
    first, second = asked([{"x": np.float32([n, n]), "k": np.float32([n // 2])} for n in range(4)], SHARED)
    assert first.block.group != second.block.group
    header, tensors = request_parts([second], SHARED)
    assert b'"shape":[2,2]' in header
    assert b'"shape":[1]' in header
    assert b"".join(tensors) == np.float32([2, 2, 3, 3, 1]).tobytes()


def test_the_answer_of_a_whole_request_is_taken_as_it_is() -> None:
    (row,) = asked([{"x": np.ones((3, 2), np.float32), "k": np.float32([1])}], WHOLE)
    header, _ = request_parts([row], WHOLE)
    assert b'"shape":[3,2]' in header
    answer = b'{"outputs":[{"name":"y","datatype":"FP32","shape":[3,2],"data":[1,2,3,4,5,6]}]}'
    found = outputs_of(answer, None, 1, WHOLE)
    assert found["y"].tolist() == [[[1, 2], [3, 4], [5, 6]]]


@pytest.mark.slow
async def test_items_of_a_model_that_looks_across_rows_are_never_mixed(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    uri = save([helper.make_node("Softmax", ["x"], ["y"], axis=0)], {"x": ["n"]}, ["n"], tmp_path / "softmax.onnx")
    async with replica(deployment(uri)) as here:
        tasks = (cpu("row", "sample_functions:one_row"), model("m", "d", "m", "row"))
        job = bench(*tasks, endpoints={"d": f"{here.host}:{here.http}"})
        job.write_records([{"v": value} for value in range(40)])
        await job.run_all()
    for value, given in enumerate(job.results("m")):
        wanted = np.exp(np.eye(8)[value % 8])
        np.testing.assert_allclose(given, wanted / wanted.sum(), rtol=1e-5)


@pytest.mark.slow
async def test_items_get_the_answer_to_their_own_setting(bench: Callable[..., Bench], tmp_path: Path) -> None:
    node = helper.make_node("Mul", ["x", "k"], ["y"])
    uri = save([node], {"x": ["n", 8], "k": [1]}, ["n", 8], tmp_path / "scaled.onnx")
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [8]},
        {"name": "k", "datatype": "FP32", "shape": [1], "batched": False},
    ]
    async with replica(deployment(uri, inputs=inputs)) as here:
        tasks = (cpu("row", "sample_functions:scaled_row"), model("m", "d", "m", "row"))
        job = bench(*tasks, endpoints={"d": f"{here.host}:{here.http}"})
        job.write_records([{"v": value} for value in range(40)])
        await job.run_all()
    for value, given in enumerate(job.results("m")):
        assert given == [(each + value) * (value % 3) for each in range(8)]


@pytest.mark.slow
async def test_a_replica_that_would_take_rows_for_one_item_is_refused(tmp_path: Path) -> None:
    uri = save([helper.make_node("Neg", ["x"], ["y"])], {"x": ["n", 8]}, ["n", 8], tmp_path / "neg.onnx")
    whole = deployment(uri, batching={"mode": "Whole"})
    async with replica(deployment(uri)) as first, replica(whole) as second:
        replicas = ReplicaSet("d", f"{first.host}:{first.http}")
        await replicas.open()
        client = ModelClient(replicas, "m", AnyModel(), ())
        try:
            assert not (await client.learn()).whole
            replicas.replicas.append(Replica(host=second.host, port=second.http))
            with pytest.raises(StepFailed, match="in rows where the job began and whole at") as refused:
                await confirmed_for_ever(client)
            assert refused.value.reason == "ModelChanged"
            assert not replicas.replicas[1].known_models
        finally:
            await client.close()
            await replicas.close()


async def confirmed_for_ever(client: ModelClient) -> None:
    """A replica that still loads its model tells nothing."""
    while True:
        await client.confirm()
        await asyncio.sleep(0.05)


class AnyModel:
    """A ModelCheck that agrees."""

    def check(self, deployment: str, model: str, digests: Mapping[str, str]) -> None:
        pass


SLOW_TO_LOAD = """
import time
from pathlib import Path

class Model:
    def __init__(self, path):
        while not (Path(path).parent / "go-on").exists():
            time.sleep(0.01)

    def infer(self, inputs):
        return {"y": inputs["x"] - inputs["x"].mean(axis=0)}
"""


@pytest.mark.slow
async def test_what_a_model_takes_is_not_guessed_while_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    artifact = {
        "format": "python",
        "uri": (tmp_path / "weights").as_uri(),
        "script": {"configMapKeyRef": {"name": "scripts", "key": "m.py"}},
    }
    x, y = ({"name": name, "datatype": "FP32", "shape": [-1]} for name in "xy")
    document = deployment("", inputs=[x], outputs=[y], artifacts=[artifact])
    scripts = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "scripts"}, "data": {"m.py": SLOW_TO_LOAD}}
    async with replica(document, scripts) as here:
        replicas = ReplicaSet("d", f"{here.host}:{here.http}")
        await replicas.open()
        try:
            learning = asyncio.create_task(ModelClient(replicas, "m", AnyModel(), ()).learn())
            await asyncio.wait([learning], timeout=0.7)
            assert not learning.done()
            (tmp_path / "go-on").touch()
            assert (await learning).whole
        finally:
            await replicas.close()
