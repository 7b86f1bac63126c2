"""The Helm chart: it is manifests/base with values, and helm installs, upgrades, rolls back and uninstalls it."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from batchwright_operator.settings import Settings
from e2e.cluster import ControlPlane, kubectl_path
from e2e.cluster.build.components import program
from e2e.cluster.machine.waiting import wait_until
from e2e.release.chart import CHART, ROOT
from e2e.release.values import Values

Object = dict[str, Any]
Objects = list[Object]
Built = Callable[[str], Objects]
SYSTEM = "batchwright-system"
CRD = "CustomResourceDefinition"
apiserver = pytest.mark.apiserver


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(program("helm")), *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def rendered(*options: str, namespace: str = SYSTEM) -> Objects:
    """What the chart makes of these values."""
    text = helm("template", "batchwright", str(CHART), "--namespace", namespace, *options).stdout
    return [each for each in yaml.safe_load_all(text) if each]


def place(each: Object) -> tuple[str, str, str]:
    return each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]


def plain(each: Object) -> Object:
    """Without what Helm's and kustomize's ways add: labels, a checksum or a hash of the settings, and the policy that
    Kubernetes would take anyway."""
    text = json.dumps(each).replace('"helm.sh/resource-policy": "keep"', "")
    found: Object = json.loads(text)
    for part in parts(found):
        for name in ("app.kubernetes.io/managed-by", "app.kubernetes.io/instance"):
            part.get("labels", {}).pop(name, None)
        part.get("annotations", {}).pop("checksum/settings", None)
        if not part.get("annotations", True):
            del part["annotations"]
    for container in found.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
        container.pop("imagePullPolicy", None)
    return found


def parts(found: Object) -> Iterator[Object]:
    yield found["metadata"]
    if found["kind"] in ("Deployment", "DaemonSet"):
        yield found["spec"]["template"]["metadata"]


def without_hash(objects: Objects) -> Objects:
    """kustomize's name of the ConfigMap ends in a hash."""
    (config,) = [each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"]
    return list(json.loads(json.dumps(objects).replace(config, "batchwright-settings")))


# --- what it is -----------------------------------------------------------------------------------


@apiserver
def test_it_makes_the_very_objects_of_the_manifests(built: Built) -> None:
    base = {place(each): plain(each) for each in without_hash(built("base"))}
    base.pop(("Namespace", "", SYSTEM))  # `helm install --create-namespace`
    chart = {place(each): plain(each) for each in rendered()}
    assert chart.keys() == base.keys()
    settings = ("ConfigMap", SYSTEM, "batchwright-settings")
    assert settings_of(chart.pop(settings)) == settings_of(base.pop(settings))
    for where, each in base.items():
        assert chart[where] == each, where


def settings_of(config: Object) -> Settings:
    return msgspec.convert(yaml.safe_load(config["data"]["settings.yaml"]), Settings)


@apiserver
def test_monitoring_is_that_of_the_manifests(built: Built) -> None:
    on = [
        word for name in ("podMonitors", "rules", "dashboards") for word in ("--set", f"monitoring.{name}.enabled=true")
    ]
    labels = ("--set", "monitoring.podMonitors.labels.release=stack,monitoring.rules.labels.release=stack")
    made = {place(each): plain(each) for each in rendered(*on, *labels, "--set", "crds.install=false")}
    theirs = {place(each): plain(each) for each in built("monitoring")}
    for where, each in theirs.items():
        if each["kind"] != "ConfigMap":
            each["metadata"]["labels"]["release"] = "stack"
        assert made[where] == each, where


@apiserver
def test_in_some_namespaces_it_has_the_rights_of_the_overlay(built: Built) -> None:
    kinds = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    overlay = {place(each): plain(each) for each in built("overlays/namespaced") if each["kind"] in kinds}
    chart = {place(each): plain(each) for each in rendered("--set", "settings.watchNamespaces={team-a}")
             if each["kind"] in kinds}  # fmt: skip
    assert chart == overlay


@apiserver
def test_nothing_is_bound_to_the_names_of_the_manifests() -> None:
    """In another namespace, with other agents' namespace, there is no trace of those."""
    objects = [
        each for each in rendered("--set", "agent.namespace=nodes", namespace="elsewhere") if each["kind"] != CRD
    ]
    assert SYSTEM not in json.dumps(objects)
    assert {place(each)[1] for each in objects} == {"", "elsewhere", "nodes"}


@apiserver
def test_images_are_named_once(tmp_path: Path) -> None:
    digest = f"sha256:{'a' * 64}"
    values = {
        "image": {
            "registry": "registry.example/team/",
            "worker": {"digest": digest},
            "operator": {"tag": "9"},
            "pullPolicy": "Always",
            "pullSecrets": [{"name": "pull"}],
        }
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    objects = rendered("--values", str(tmp_path / "values.yaml"))
    pods = {
        each["kind"]: each["spec"]["template"]["spec"]
        for each in objects
        if each["kind"] in ("Deployment", "DaemonSet")
    }
    images = {kind: pod["containers"][0]["image"] for kind, pod in pods.items()}
    assert images == {
        "Deployment": "registry.example/team/batchwright-operator:9",
        "DaemonSet": f"registry.example/team/batchwright-worker@{digest}",
    }
    assert all(pod["imagePullSecrets"] == [{"name": "pull"}] for pod in pods.values())
    settings = settings_of(next(each for each in objects if each["kind"] == "ConfigMap"))
    assert settings.image_pull_policy == "Always"
    assert settings.benchmark_pod_for("cpu").image_pull_secrets == ["pull"]


@apiserver
def test_every_part_can_be_left_out() -> None:
    parts = ("userRoles", "admissionPolicy", "flowControl", "networkPolicies")
    off = [word for name in parts for word in ("--set", f"{name}.enabled=false")]
    kinds = {each["kind"] for each in rendered(*off, "--set", "crds.install=false,agent.createNamespace=false")}
    gone = {CRD, "Namespace", "NetworkPolicy", "FlowSchema", "ValidatingAdmissionPolicy", "PriorityLevelConfiguration"}
    assert kinds & gone == set()


WRONG = {
    "image.worker.tags=1": "/image/worker",
    "image.worker.digest=latest": "/image/worker/digest",
    "settings.scrapeInterval=7": "scrapeInterval",
    "settings.workers=many": "/settings/workers",
    "settings.imagePullPolicy=Sometimes": "/settings/imagePullPolicy",
    "operator.replicas=-1": "/operator/replicas",
    "crd.install=true": "'crd'",
}


@apiserver
def test_every_wrong_value_is_named() -> None:
    said = helm("template", str(CHART), *(word for value in WRONG for word in ("--set", value)), check=False)
    assert said.returncode != 0
    assert [place for place in WRONG.values() if place not in said.stderr] == [], said.stderr


def test_the_values_are_all_there_is_to_set() -> None:
    """Every field of the types, with its value; so that `helm show values` shows all of them."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert msgspec.to_builtins(msgspec.convert(values, Values)) == values


@apiserver
def test_helm_finds_nothing_to_say_against_it() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART)).stdout


# --- helm, on a real API server -------------------------------------------------------------------


@pytest.fixture
def empty() -> Iterator[ControlPlane]:
    """One for each test: what is uninstalled leaves namespaces that end a while later."""
    with ControlPlane.start("chart", scheduler=False) as plane:
        yield plane


class Release:
    """One release, by helm."""

    def __init__(self, plane: ControlPlane) -> None:
        self._to = ("--kubeconfig", str(plane.kubeconfig), "--namespace", SYSTEM)

    def run(self, verb: str, *arguments: str) -> str:
        return helm(verb, "batchwright", *arguments, *self._to).stdout

    def manifest(self) -> Objects:
        text = helm("get", "manifest", "batchwright", *self._to).stdout
        return [each for each in yaml.safe_load_all(text) if each]


@apiserver
def test_install_upgrade_rollback_and_uninstall(empty: ControlPlane) -> None:
    release, api = Release(empty), empty.api
    operator = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/batchwright-operator"
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/modeldeployments.batchwright.dev"

    def image() -> str:
        return str(api.get(operator)["spec"]["template"]["spec"]["containers"][0]["image"])

    release.run("install", str(CHART), "--create-namespace")
    installed = copy.deepcopy(api.get(operator))
    assert image() == "batchwright-operator:0.1.0"
    elsewhere = ("--kubeconfig", str(empty.kubeconfig), "--namespace", "elsewhere", "--create-namespace")
    second = helm("install", "second", str(CHART), *elsewhere, check=False)
    assert (second.returncode != 0, "cannot be imported into the current release" in second.stderr) == (True, True)
    assert api.get(operator)["metadata"]["uid"] == installed["metadata"]["uid"]
    # An older chart's CRD, and a hand that changed something: the upgrade reaches both.
    api.patch(f"{crds}?fieldManager=helm", {"metadata": {"labels": {"old": "yes"}}})
    release.run("upgrade", str(CHART), "--set", "image.operator.tag=0.2.0,settings.workers=3,operator.replicas=2")
    upgraded = api.get(operator)
    assert (image(), upgraded["spec"]["replicas"]) == ("batchwright-operator:0.2.0", 2)
    checksums = [
        each["spec"]["template"]["metadata"]["annotations"]["checksum/settings"] for each in (installed, upgraded)
    ]
    assert checksums[0] != checksums[1]  # so that changed settings restart the operator
    release.run("rollback", "1")
    assert api.get(operator)["spec"] == installed["spec"]
    made = [path_of(each) for each in release.manifest() if each["kind"] != CRD]
    assert all(api.exists(path) for path in made)
    release.run("uninstall")
    assert wait_until(
        lambda: not any(map(api.exists, made)), timeout_s=60, interval_s=0.3
    )  # a namespace takes its time
    assert api.exists(crds)  # crds.keep
    release.run("install", str(CHART), "--take-ownership")
    release.run("uninstall")


@apiserver
def test_from_kustomize_to_the_chart(empty: ControlPlane) -> None:
    """What was applied server-side becomes the release's; nothing is made anew."""
    command = [
        str(kubectl_path()),
        "--kubeconfig",
        str(empty.kubeconfig),
        "apply",
        "--server-side",
        "--force-conflicts",
    ]
    applied = subprocess.run(
        [*command, "-k", str(ROOT / "manifests" / "base")], check=False, capture_output=True, text=True
    )
    assert applied.returncode == 0, applied.stderr
    operator = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/batchwright-operator"
    before = empty.api.get(operator)["metadata"]["uid"]
    release = Release(empty)
    release.run("install", str(CHART), "--take-ownership", "--force-conflicts", "--set", "operator.replicas=2")
    after = empty.api.get(operator)
    assert (after["metadata"]["uid"], after["spec"]["replicas"]) == (before, 2)
    release.run("uninstall")
    assert not empty.api.exists(operator)


PLURALS = {"NetworkPolicy": "networkpolicies", "ValidatingAdmissionPolicy": "validatingadmissionpolicies"}


def path_of(each: Object) -> str:
    """The object's path at the API server."""
    kind, namespace, name = place(each)
    version = each["apiVersion"]
    plural = PLURALS.get(kind, f"{kind.lower()}s")
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{root}/namespaces/{namespace}/{plural}/{name}" if namespace else f"{root}/{plural}/{name}"
