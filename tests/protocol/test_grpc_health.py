"""grpc.health.v1 and reflection, by the clients of grpc's packages."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.http as triton_http
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.protocol.serving import Served, emulated_model, manifest, serving

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    documents = manifest("health", [emulated_model("m", 1), emulated_model("n", 1)], repositoryControl=True)
    with serving(tmp_path_factory.mktemp("health"), documents) as served:
        yield served


@pytest.fixture
def channel(controlled: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{controlled.grpc}") as channel:
        yield channel


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_health_of_the_server_its_service_and_its_models(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", "m"):
        assert stub.Check(asked(service), timeout=60).status == SERVING
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(asked("nope"), timeout=60)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_watch_tells_every_change(controlled: Served, channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(asked("m"), timeout=60)
    assert next(watch).status == SERVING
    with triton_http.InferenceServerClient(f"127.0.0.1:{controlled.http}") as client:
        client.unload_model("m")
        assert next(watch).status == NOT_SERVING
        assert stub.Check(asked("n"), timeout=60).status == SERVING
        client.load_model("m")
        assert next(watch).status == SERVING
    watch.cancel()
    assert next(stub.Watch(asked("nope"), timeout=60)).status == SERVICE_UNKNOWN


def test_a_server_that_drains_is_not_serving(tmp_path: Path) -> None:
    documents = manifest("drains", [emulated_model("m", 1)])
    with (
        serving(tmp_path, documents, "--sidecar-option=--linger-seconds=0.5") as served,
        grpc.insecure_channel(f"127.0.0.1:{served.grpc}") as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(asked(""), timeout=60)
        assert next(watch).status == SERVING
        with urllib.request.urlopen(f"http://127.0.0.1:{served.control}/v1/drain", timeout=60) as drained:
            assert drained.status == 200
        assert next(watch).status == NOT_SERVING


def test_reflection_describes_all_services(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
    assert "ModelInfer" in service.methods_by_name
    assert service.methods_by_name["ModelInfer"].input_type.full_name == "inference.ModelInferRequest"
