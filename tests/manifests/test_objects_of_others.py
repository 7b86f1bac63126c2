"""Objects of other projects that our manifests and examples have, held against those projects' own definitions by a
real API server: no field is unknown, none has a wrong value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_worker.api.names import GRPC_PORT, HTTP_PORT
from e2e.cluster import ControlPlane
from e2e.cluster.build.modules import Module
from e2e.cluster.machine.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = {
    Module(
        path="sigs.k8s.io/gateway-api", version="v1.6.3", digest="h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc="
    ): "config/crd/standard/*_{httproutes,grpcroutes,backendtlspolicies}.yaml",
    Module(
        path="github.com/prometheus-operator/prometheus-operator",
        version="v0.85.0",
        digest="h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
    ): "example/prometheus-operator-crd/*_{podmonitors,prometheusrules}.yaml",
    Module(
        path="github.com/fluxcd/kustomize-controller",
        version="v1.9.6",
        digest="h1:XB+G3A0mky0j5uVHZWv4oSlS2RvZBoNIUhstIvY0JKE=",
    ): "config/crd/bases/*_{kustomizations}.yaml",
    Module(
        path="github.com/argoproj/argo-cd/v3",
        version="v3.5.7",
        digest="h1:Xm1BF+I5OgDKUG3SDK49vn2/Y5AMyaNVko+/JT08gj0=",
    ): "manifests/crds/{application}-crd.yaml",
    Module(
        path="github.com/argoproj/argo-workflows/v3",
        version="v3.7.14",
        digest="h1:ptbGB8ljmDgV3PlX0dEMfHwuq1P9DklQ5Hi4XzHBVLA=",
    ): "manifests/base/crds/full/*_{workflows}.yaml",
}
"""Module -> its files with definitions; each word in braces is one."""
FOLDERS = ("examples/gateway", "examples/monitoring", "examples/gitops", "manifests/monitoring")
Kubectl = Callable[..., Any]


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and kind, object) of all that is not ours or Kubernetes'."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.yaml")):
            for each in yaml.safe_load_all(path.read_text()):
                group = str(each.get("apiVersion", "")).partition("/")[0]
                if "." in group and not group.startswith("kustomize.config"):
                    yield f"{path.relative_to(ROOT)}: {each['kind']}", each


OBJECTS = dict(objects())


@pytest.fixture(scope="module")
def with_definitions(kubectl: Kubectl, plane: ControlPlane) -> Kubectl:
    for module, pattern in DEFINITIONS.items():
        before, names, after = pattern.replace("{", "}").split("}")
        for name in names.split(","):
            (path,) = module.folder().glob(f"{before}{name}{after}")
            kubectl("create", "-f", str(path))
    # `kubectl wait` fails on one whose conditions are not there yet.
    established = ("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    assert wait_until(lambda: kubectl(*established, check=False).returncode == 0, timeout_s=60)
    for name in {each["metadata"].get("namespace", "default") for each in OBJECTS.values()} - {"default"}:
        kubectl("create", "namespace", name)
    return kubectl


@pytest.mark.apiserver
@pytest.mark.soak
@pytest.mark.parametrize("name", OBJECTS)
def test_the_api_server_takes_it_by_its_own_definition(name: str, with_definitions: Kubectl) -> None:
    create = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
    done = with_definitions(*create, text=yaml.safe_dump(OBJECTS[name]))
    assert "Warning" not in done.stderr
    wrong = {**OBJECTS[name], "spec": {**OBJECTS[name]["spec"], "unheardOf": 1}}
    refused = with_definitions(*create, text=yaml.safe_dump(wrong), check=False)
    assert 'unknown field "spec.unheardOf"' in refused.stderr


@pytest.mark.parametrize(("kind", "port"), [("HTTPRoute", HTTP_PORT), ("GRPCRoute", GRPC_PORT)])
def test_routes_lead_to_the_ports_of_a_deployment_and_let_no_repository_call_in(kind: str, port: int) -> None:
    (route,) = [each for each in OBJECTS.values() if each["kind"] == kind]
    (rule,) = route["spec"]["rules"]
    assert {each["port"] for each in rule["backendRefs"]} == {port}
    if kind == "HTTPRoute":
        paths = [each["path"]["value"] for each in rule["matches"]]
        assert all(path.startswith("/v2/models/") and len(path) > len("/v2/models/") for path in paths)
    else:
        methods = {each["method"]["method"] for each in rule["matches"]}
        assert not [name for name in methods if name.startswith(("Repository", "Server", "Trace", "SystemShared"))]


def test_the_pods_that_one_monitor_leaves_out_are_those_that_the_other_asks() -> None:
    monitors = {each["metadata"]["name"]: each["spec"]["selector"] for name, each in OBJECTS.items()
                if each["kind"] == "PodMonitor"}  # fmt: skip
    left_out = [each for each in monitors["batchwright-models"]["matchExpressions"] if each["operator"] == "NotIn"]
    assert [(each["key"], each["values"]) for each in left_out] == [("metrics-scheme", ["https"])]
    assert monitors["ocr"]["matchLabels"]["metrics-scheme"] == "https"
