"""What manifests/ holds: it builds, the API server takes it, rights are small and pods are restricted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import yaml

from batchwright_operator.settings import Settings
from batchwright_worker.api.documents import KINDS, validate
from batchwright_worker.api.names import AGENT_PORT, KIND_CPU, KIND_EMULATED, LABEL_BENCHMARK, OPERATOR_METRICS_PORT
from e2e.cluster import ApiError, ControlPlane

pytestmark = pytest.mark.apiserver  # kubectl is built with it

Object = dict[str, Any]
Objects = list[Object]
Built = Callable[[str], Objects]
FOLDERS = ["base", "overlays/example", "overlays/namespaced", "overlays/embedded", "overlays/kind"]
SAMPLES = ["samples", "overlays/example/samples"]
every_folder = pytest.mark.parametrize("folder", FOLDERS)


def of_kind(objects: Objects, kind: str) -> Objects:
    return [each for each in objects if each["kind"] == kind]


def one(objects: Objects, kind: str, name: str) -> Object:
    return next(each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)


def templates(objects: Objects) -> Iterator[tuple[Object, Object]]:
    """Each workload with its pod's spec."""
    for each in objects:
        template = each.get("spec", {}).get("template") if each["kind"] in ("Deployment", "DaemonSet", "Job") else None
        if template:
            yield each, template["spec"]


def rules(objects: Objects) -> Iterator[tuple[str, Object]]:
    for kind in ("ClusterRole", "Role"):
        for role in of_kind(objects, kind):
            yield from ((role["metadata"]["name"], rule) for rule in role.get("rules", []))


@every_folder
def test_no_rule_has_a_wildcard(folder: str, built: Built) -> None:
    for name, rule in rules(built(folder)):
        assert "*" not in str(rule), name


def test_the_operator_reads_no_secret_but_its_own(built: Built) -> None:
    reads = {"get", "list", "watch"}
    for _, rule in rules(built("base")):
        if "secrets" in rule["resources"] and reads & set(rule["verbs"]):
            assert rule["resourceNames"] == ["batchwright-control-key"]
            assert rule["verbs"] == ["get"]


def test_the_operator_cannot_write_what_users_own(built: Built) -> None:
    role = one(built("base"), "ClusterRole", "batchwright-operator-namespaced")
    verbs = {
        kind: {verb for rule in role["rules"] if kind in rule["resources"] for verb in rule["verbs"]}
        for kind in ("modeldeployments", "inferencejobs")
    }
    reads = {"get", "list", "watch"}
    assert verbs == {"modeldeployments": reads, "inferencejobs": reads | {"delete"}}  # a TTL deletes


@every_folder
def test_the_worker_image_is_named_once(folder: str, built: Built) -> None:
    """By the agents, whom the operator asks; so an overlay that sets `images` alone sets all of them."""
    (agent,) = one(built(folder), "DaemonSet", "batchwright-agent")["spec"]["template"]["spec"]["containers"]
    assert (agent["name"], "batchwright-worker:" in agent["image"]) == ("agent", True)
    objects = [each for each in built(folder) if each["kind"] != "CustomResourceDefinition"]
    assert str(objects).count("batchwright-worker:") == 1
    assert "WORKER_IMAGE" not in str(objects)
    named = [rule for name, rule in rules(objects) if "daemonsets" in rule["resources"]]
    assert [(rule["resourceNames"], rule["verbs"]) for rule in named] == [(["batchwright-agent"], ["get"])]


def test_an_overlay_changes_every_image(built: Built) -> None:
    both = [*built("overlays/example"), *built("overlays/example/samples")]
    images = {container["image"] for _, spec in templates(both) for container in spec["containers"]}
    assert images == {f"registry.example/batchwright-{name}:0.1.0" for name in ("operator", "worker")}


@every_folder
def test_the_settings_are_settings(folder: str, built: Built) -> None:
    (config,) = [each for each in of_kind(built(folder), "ConfigMap") if "settings.yaml" in each["data"]]
    settings = msgspec.convert(yaml.safe_load(config["data"]["settings.yaml"]), Settings)
    assert {row.accelerator for row in settings.runtime_table} == {KIND_CPU, KIND_EMULATED}


def test_ports_and_labels_are_those_of_the_contract(built: Built) -> None:
    base = built("base")
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(base, "NetworkPolicy")}
    assert policies["batchwright-operator"]["ingress"][0]["ports"][0]["port"] == OPERATOR_METRICS_PORT
    assert policies["batchwright-agent"]["ingress"][0]["ports"][0]["port"] == AGENT_PORT
    assert policies["batchwright-benchmark"]["podSelector"]["matchLabels"] == {LABEL_BENCHMARK: "true"}


def test_every_pod_has_requests_and_a_memory_limit(built: Built) -> None:
    for each, spec in templates(built("base")):
        for container in spec["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), each["metadata"]["name"]
            assert "memory" in resources["limits"]


def test_host_paths_are_read_only_and_only_the_agents(built: Built) -> None:
    for each, spec in templates(built("base")):
        paths = {volume["name"] for volume in spec["volumes"] if "hostPath" in volume}
        assert not paths or each["metadata"]["name"] == "batchwright-agent"
        mounts = [mount for container in spec["containers"] for mount in container["volumeMounts"]]
        assert all(mount.get("readOnly") for mount in mounts if mount["name"] in paths)


def test_samples_are_good_manifests(built: Built) -> None:
    own = [each for each in built("overlays/example/samples") if each["kind"] in KINDS]
    assert {each["kind"] for each in own} == set(KINDS)
    assert [str(problem) for each in own for problem in validate(each)] == []


@pytest.fixture(scope="module")
def installed(kubectl: Callable[..., subprocess.CompletedProcess[str]], built: Built) -> None:
    """CRDs and namespaces are there, so that a dry run can say what it thinks of the rest."""
    base = [each for each in built("base") if each["kind"] in ("CustomResourceDefinition", "Namespace")]
    base += of_kind(built("samples"), "Namespace")
    kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(base))
    names = [f"crd/{each['metadata']['name']}" for each in of_kind(base, "CustomResourceDefinition")]
    kubectl("wait", "--for=condition=Established", "--timeout=60s", *names)
    kubectl("create", "namespace", "team-a")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("folder", [*FOLDERS, *SAMPLES])
def test_the_api_server_takes_it_without_a_warning(
    folder: str, built: Built, kubectl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    text = yaml.safe_dump_all(built(folder))
    done = kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-", text=text)
    assert done.stderr == ""


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("folder", [*FOLDERS, *SAMPLES])
def test_every_pod_but_the_agents_is_restricted(folder: str, built: Built, plane: ControlPlane) -> None:
    """Each pod spec, as a pod, is admitted where Pod Security restricted is enforced."""
    admitted = {each["metadata"]["name"] for each, spec in templates(built(folder)) if is_restricted(plane, spec)}
    everyone = {each["metadata"]["name"] for each, _ in templates(built(folder))}
    assert everyone - admitted <= {"batchwright-agent"}
    assert admitted


def is_restricted(plane: ControlPlane, spec: Object) -> bool:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": {key: value for key, value in spec.items() if key != "serviceAccountName"},
    }
    try:
        plane.api.request("POST", "/api/v1/namespaces/batchwright-system/pods?dryRun=All", pod)
    except ApiError as error:
        if "violates PodSecurity" not in str(error):
            raise
        return False
    return True
