"""What tools that apply an object again and again find: nothing to do. An upgrade of the CRDs changes no meaning."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_operator.api.model_deployment import parse
from batchwright_operator.crds.generate import KINDS, definition
from batchwright_worker.api.defaults import effective
from batchwright_worker.api.deployment import ModelDeploymentSpec
from batchwright_worker.api.documents import with_defaults
from e2e.cluster import ControlPlane, kubectl_path
from e2e.cluster.machine.waiting import wait_until
from tests.crds.api_cases import GOOD, MINIMAL_DEPLOYMENT, WHOLE_DEPLOYMENT, Document

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., str]
DEPLOYMENTS = "/apis/batchwright.dev/v1alpha1/namespaces/default/modeldeployments"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def kubectl(plane: ControlPlane, *arguments: str, documents: list[Document], check: bool = True) -> str:
    command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), *arguments, "-f", "-"]
    text = "\n---\n".join(map(json.dumps, documents))  # kubectl reads bare y as true
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


# --- the defaults of elements ---------------------------------------------------------------------


def test_elements_get_the_values_that_hold_for_them() -> None:
    """Those that the schema had before 0.1.0, to the letter: what pods are made from is this text."""
    (model,) = effective(MINIMAL_DEPLOYMENT["spec"], ModelDeploymentSpec)["models"]
    (artifact,) = model.pop("artifacts")
    assert model == {
        "name": MINIMAL_DEPLOYMENT["spec"]["models"][0]["name"],
        "batching": {
            "minSize": 1, "maxSize": 32, "step": 1, "windowMilliseconds": 1000, "trendLength": 8,
            "maxQueueDelayMilliseconds": 0, "maxQueueLength": 10000, "controller": "Auto",
        },
        "warmup": {"mode": "Auto"},
    }  # fmt: skip
    (written,) = MINIMAL_DEPLOYMENT["spec"]["models"][0]["artifacts"]
    assert artifact == {"accelerator": "cpu", "maxBytes": 10737418240, **written}


def test_what_is_written_is_kept_and_filling_in_is_done_once() -> None:
    spec = WHOLE_DEPLOYMENT["spec"]
    filled = effective(spec, ModelDeploymentSpec)
    assert effective(filled, ModelDeploymentSpec) == filled

    def within(part: Any, whole: Any) -> bool:
        if isinstance(part, dict):
            return all(name in whole and within(value, whole[name]) for name, value in part.items())
        if isinstance(part, list):
            return len(part) == len(whole) and all(map(within, part, whole))
        return bool(part == whole)

    assert within(spec, filled)


@pytest.mark.parametrize(
    "models", [None, 3, [3], [{"name": "x", "artifacts": "y"}], [{"batching": [1]}], [{"artifacts": [{"emulated": 1}]}]]
)
def test_nonsense_is_left_to_whoever_refuses_it(models: Any) -> None:
    effective({"models": models}, ModelDeploymentSpec)


def test_nothing_outside_of_lists_is_filled_in() -> None:
    assert set(effective({"models": []}, ModelDeploymentSpec)) == {"models"}


# --- tools ----------------------------------------------------------------------------------------

SAMPLES = [
    each
    for path in (*(ROOT / "manifests/samples").glob("*.yaml"), ROOT / "examples/ocr/serve/deployment.yaml")
    for each in yaml.safe_load_all(path.read_text())
    if each and each["kind"] in ("ModelDeployment", "InferenceJob")
]


@pytest.mark.apiserver
@pytest.mark.usefixtures("crds")
def test_what_is_applied_again_is_unchanged(control_plane: ControlPlane) -> None:
    """kubectl's three-way merge of custom resources, which Argo CD's diff uses too."""
    mine = [{**document, "metadata": {"name": f"again-{number}", "namespace": "default"}}
            for number, document in enumerate([*GOOD, *SAMPLES])]  # fmt: skip
    try:
        for wanted in ("created", "unchanged", "unchanged"):
            said = kubectl(control_plane, "apply", documents=mine).splitlines()
            assert [line.split()[-1] for line in said] == [wanted] * len(mine), said
        assert kubectl(control_plane, "diff", documents=mine) == ""
    finally:
        kubectl(control_plane, "delete", documents=mine)


# --- an upgrade -----------------------------------------------------------------------------------


def former_crd() -> Document:
    """The CRD with the defaults of elements in it, and artifacts as a list with keys, as it was before 0.1.0."""
    crd = copy.deepcopy(next(definition(kind) for kind in KINDS if kind.resource.kind == "ModelDeployment"))
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    model = spec["models"]["items"]["properties"]
    artifacts = model["artifacts"] | {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["accelerator"],
    }
    model["artifacts"] = artifacts
    (filled,) = effective(MINIMAL_DEPLOYMENT["spec"], ModelDeploymentSpec)["models"]
    for name in ("accelerator", "maxBytes"):
        artifacts["items"]["properties"][name]["default"] = filled["artifacts"][0][name]
    for part in ("batching", "warmup"):
        model[part]["default"] = filled[part]
        for name, value in filled[part].items():
            model[part]["properties"][name]["default"] = value
    for name, value in (("count", 1), ("protocol", "batchwright")):
        spec["runtimes"]["items"]["properties"][name]["default"] = value
    return crd


@pytest.fixture(scope="module")
def upgraded() -> Iterator[tuple[ControlPlane, dict[str, Document]]]:
    """Objects stored by an API server with the former CRD, as they were then; the CRD is the present one by now."""
    with ControlPlane.start("upgrade-crds", scheduler=False) as plane:
        former = former_crd()
        plane.api.request("POST", CRD, former)
        assert wait_until(lambda: plane.api.exists(DEPLOYMENTS), timeout_s=60, interval_s=0.1)
        for way, options in (("client", ()), ("server", ("--server-side",))):
            kubectl(plane, "apply", *options, documents=[deployment(way)])
        before = {way: plane.api.get(f"{DEPLOYMENTS}/{way}") for way in ("client", "server")}
        crd = next(definition(kind) for kind in KINDS if kind.resource.kind == "ModelDeployment")
        kubectl(plane, "replace", documents=[crd])
        probe = f"{DEPLOYMENTS}?dryRun=All"

        def present() -> bool:
            made = plane.api.request("POST", probe, deployment("probe"))
            return "batching" not in made["spec"]["models"][0]

        assert wait_until(present, timeout_s=60, interval_s=0.1)
        yield plane, before


def deployment(name: str) -> Document:
    made = copy.deepcopy(WHOLE_DEPLOYMENT)
    made["metadata"] = {"name": name, "namespace": "default"}
    for model in made["spec"]["models"]:
        model.pop("batching", None)
    return made


@pytest.mark.apiserver
@pytest.mark.parametrize("way", ["client", "server"])
def test_what_is_stored_means_what_it_meant(way: str, upgraded: tuple[ControlPlane, dict[str, Document]]) -> None:
    plane, before = upgraded
    options = ("--server-side",) if way == "server" else ()
    assert before[way]["spec"]["models"][0]["batching"]["maxSize"] == 32  # the former CRD's doing
    after = plane.api.get(f"{DEPLOYMENTS}/{way}")
    assert after["spec"] == before[way]["spec"]
    assert after["metadata"]["generation"] == 1
    for _ in range(2):
        kubectl(plane, "apply", *options, documents=[deployment(way)])
        again = plane.api.get(f"{DEPLOYMENTS}/{way}")
        assert same_text(parse(again).raw["spec"], parse(before[way]).raw["spec"])
        assert parse(again).spec == parse(before[way]).spec


@pytest.mark.apiserver
def test_an_artifact_that_is_no_longer_applied_goes(upgraded: tuple[ControlPlane, dict[str, Document]]) -> None:
    """By whoever applied the list by its keys before, and as a whole now."""
    plane, _ = upgraded
    fewer = deployment("server")
    fewer["spec"]["models"][0]["artifacts"] = fewer["spec"]["models"][0]["artifacts"][:-1]
    fewer["spec"]["runtimes"] = fewer["spec"]["runtimes"][:1]
    kubectl(plane, "apply", "--server-side", documents=[fewer])
    stored = plane.api.get(f"{DEPLOYMENTS}/server")["spec"]["models"][0]["artifacts"]
    assert stored == fewer["spec"]["models"][0]["artifacts"]


def same_text(one: Document, other: Document) -> bool:
    """As configurations are written and their digests are made."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def test_local_mode_fills_in_the_same() -> None:
    for document in GOOD:
        filled = with_defaults(document)
        if document["kind"] == "ModelDeployment":
            assert effective(filled["spec"], ModelDeploymentSpec) == filled["spec"]
