"""KServe's serving runtimes: what their containers run serves what KServe puts into /mnt/models, and their fields are
KServe's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from e2e.peers import peer_python
from tests.local.triton_models import made
from tests.protocol.serving import WEIGHTS, infer_linear, linear_onnx, listening, wait_ready

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "kserve"
OBJECTS: list[dict[str, Any]] = [
    each for path in sorted(EXAMPLES.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())
]
RUNTIMES = {each["metadata"]["name"]: each["spec"] for each in OBJECTS if each["kind"].endswith("ServingRuntime")}
FIELDS = """
import importlib, json, sys
import kserve, kserve.models, kubernetes.client.models as core

def unknown(value, kind, path):
    if kind.startswith("list["):
        for index, each in enumerate(value):
            yield from unknown(each, kind[5:-1], f"{path}[{index}]")
    elif (found := getattr(kserve, kind, None) or getattr(kserve.models, kind, None) or getattr(core, kind, None)):
        names = {json_name: name for name, json_name in found.attribute_map.items()}
        for key, each in value.items():
            if key not in names:
                yield f"{path}.{key}"
            else:
                yield from unknown(each, found.openapi_types[names[key]], f"{path}.{key}")
    elif kind == "str" and not isinstance(value, str):
        yield f"{path}: {value!r} is no text"
    elif kind == "int" and not isinstance(value, int):
        yield f"{path}: {value!r} is no number"

KINDS = {"ClusterServingRuntime": "V1alpha1", "ServingRuntime": "V1alpha1", "InferenceService": "V1beta1"}
for each in json.load(sys.stdin):
    print(*unknown(each, KINDS[each["kind"]] + each["kind"], each["kind"]), sep="\\n")
"""


def container(runtime: str) -> dict[str, Any]:
    [found] = RUNTIMES[runtime]["containers"]
    return found


def arguments(runtime: str, models: Path, name: str) -> list[str]:
    """Of the container, as KServe fills them in; on free ports of this machine."""
    here = {"/mnt/models": str(models), "{{.Name}}": name, "0.0.0.0": "127.0.0.1", "=8080": "=0", "=9000": "=0"}
    found = []
    for each in container(runtime)["args"]:
        for there, value in here.items():
            each = each.replace(there, value)  # noqa: PLW2901
        found.append(each)
    return found


def test_all_runtimes_run_one_command_and_declare_the_ports_that_it_listens_on() -> None:
    ports = {"http1": "--http=8080", "h2c": "--grpc=9000"}
    for runtime in RUNTIMES:
        found = container(runtime)
        assert found["name"] == "kserve-container"
        assert found["command"] == ["batchwright-worker", "serve"]
        assert found["args"] == container("batchwright")["args"]
        assert all(ports[each["name"]] == f"{ports[each['name']].split('=')[0]}={each['containerPort']}"
                   for each in found["ports"])  # fmt: skip
    by_protocol = {runtime: [each["name"] for each in container(runtime)["ports"]] for runtime in RUNTIMES}
    assert by_protocol == {"batchwright": ["http1"], "batchwright-grpc": ["h2c"], "batchwright-both": ["http1", "h2c"]}


def test_services_name_runtimes_that_speak_their_protocol_and_take_their_format() -> None:
    models = [each["spec"]["predictor"]["model"] for each in OBJECTS if each["kind"] == "InferenceService"]
    assert len(models) == 2
    for model in models:
        runtime = RUNTIMES[model["runtime"]]
        assert model["protocolVersion"] in runtime["protocolVersions"]
        assert model["modelFormat"] in runtime["supportedModelFormats"]


def test_its_command_serves_a_model_file_and_is_asked_as_the_probes_do(tmp_path: Path) -> None:
    linear_onnx(tmp_path / "model.onnx")
    rows = np.ones((3, 16), np.float32)
    with listening(*arguments("batchwright", tmp_path, "linear")) as served:
        wait_ready(served)
        for probe in ("readinessProbe", "livenessProbe"):
            assert served.get(container("batchwright")[probe]["httpGet"]["path"])[0] == 200
        np.testing.assert_allclose(infer_linear(served, rows), rows @ WEIGHTS, rtol=1e-4, atol=1e-5)
        assert served.get(RUNTIMES["batchwright"]["annotations"]["prometheus.kserve.io/path"])[0] == 200


@pytest.mark.soak
def test_its_command_serves_a_model_repository_over_grpc(tmp_path: Path) -> None:
    linear_onnx(made(tmp_path, "linear", "max_batch_size: 4", "2") / "2" / "model.onnx")
    rows = np.ones((3, 16), np.float32)
    with listening(*arguments("batchwright-grpc", tmp_path, "shop")) as served:
        wait_ready(served)
        with grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
            tensor = triton_grpc.InferInput("x", list(rows.shape), "FP32")
            tensor.set_data_from_numpy(rows)
            answer = client.infer("linear", [tensor], model_version="2").as_numpy("y")
    np.testing.assert_allclose(answer, rows @ WEIGHTS, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
def test_every_field_is_one_of_kserves(tmp_path: Path) -> None:
    def unknown(objects: list[dict[str, Any]]) -> list[str]:
        command = [str(peer_python("kserve")), "-c", FIELDS]
        done = subprocess.run(
            command, input=json.dumps(objects), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
        )
        return done.stdout.split()

    assert unknown(OBJECTS) == []
    wrong = {**OBJECTS[0], "spec": {**OBJECTS[0]["spec"], "protocolVersion": ["v2"]}}
    assert unknown([wrong]) == [f"{wrong['kind']}.spec.protocolVersion"]
