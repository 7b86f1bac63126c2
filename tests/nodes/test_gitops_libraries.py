"""Argo CD's own diff and health and Flux's kstatus over objects that a real operator has worked on with real nodes: in
every state, whichever way they were applied, no difference is found; and none is healthy before it is.

Real: kubelets, containerd, the whole operator, gitops-engine, kstatus.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.demo.kubectl import condition, wait_for
from tests.nodes.gitops import MANAGER, Raw, Verdict, judged
from tests.nodes.older_version import present
from tests.nodes.place import PATIENCE, PLACE, SYSTEM, Place, inference_job, model_deployment, unmeasured

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(1800)]

ITEMS = 60
WAYS = ("client-side", "server-side")
"""How a sync applies: Argo CD's default, and with the sync option ServerSideApply=true."""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with unmeasured("gitops") as place:
        place.install(present())
        place.data(ITEMS)
        yield place


def deployment(name: str, **spec: Any) -> Raw:
    found = model_deployment(name)
    found["spec"] |= {"replicas": 1, **spec}
    return found


def unloadable(name: str) -> Raw:
    """Its claim is there, its file is not."""
    found = deployment(name, progressDeadlineSeconds=15)
    artifact = {"format": "onnx", "uri": "pvc://data/none.onnx"}
    found["spec"]["models"] = [{"name": "echo", "artifacts": [artifact]}]
    return found


def claimless(name: str) -> Raw:
    found = unloadable(name)
    found["spec"]["models"][0]["artifacts"][0]["uri"] = "pvc://nowhere/m.onnx"
    return found


def job(name: str, **spec: Any) -> Raw:
    found = inference_job(name)
    found["spec"] |= spec
    return found


def failing(name: str) -> Raw:
    found = job(name)
    found["spec"]["tasks"][0]["cpu"]["function"] = "upgrade_functions:none"
    return found


def deploymentless(name: str) -> Raw:
    found = job(name)
    found["spec"]["tasks"][1]["model"]["deployment"] = "absent"
    return found


STATES: dict[str, tuple[Raw, str, str, str]] = {
    "ready": (deployment("ready"), "Ready", "Healthy", "Current"),
    "nowhere": (deployment("nowhere", placement={"nodeSelector": {"disk": "none"}}), "", "Progressing", "InProgress"),
    "claimless": (claimless("claimless"), "Stalled", "Degraded", "Failed"),
    "unloadable": (unloadable("unloadable"), "Stalled", "Degraded", "Failed"),
    "complete": (job("complete"), "Complete", "Healthy", "Current"),
    "suspended": (job("suspended", suspend=True), "Suspended", "Suspended", "Current"),
    "failing": (failing("failing"), "Failed", "Degraded", "Failed"),
    "deploymentless": (deploymentless("deploymentless"), "WaitingForModels", "Progressing", "InProgress"),
}
"""Name -> (manifest, the condition that comes to be True, Argo CD's word, kstatus' word)."""
JOBS_NEED = deployment("echo", replicas=2)


def manifests(way: str) -> dict[str, Raw]:
    """As they lie in git, with the annotation by which Argo CD knows its own."""
    found = {}
    for name, (manifest, *_) in STATES.items():
        raw = copy.deepcopy(manifest)
        raw["metadata"]["name"] = f"{name}-{way[:6]}"
        raw["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": f"models:batchwright.dev/{name}"}
        if raw["kind"] == "InferenceJob":
            raw["spec"]["output"]["uri"] = f"pvc://data/{name}-{way[:6]}"
        found[name] = raw
    return found


def sync(place: Place, way: str, raws: dict[str, Raw]) -> None:
    options = ["--server-side", f"--field-manager={MANAGER}"] if way == "server-side" else []
    place.kubectl.run("apply", *options, "-f", "-", stdin="\n---\n".join(map(json.dumps, raws.values())))


def live(place: Place, raw: Raw) -> Raw:
    found = place.get(raw["kind"].lower(), raw["metadata"]["name"])
    assert found is not None
    return found


def verdicts(place: Place, raws: dict[str, Raw]) -> dict[str, Verdict]:
    return judged(place.cluster.kubeconfig, {name: (raw, live(place, raw)) for name, raw in raws.items()})


def out_of_sync(found: dict[str, Verdict]) -> dict[str, dict[str, str]]:
    return {name: each.differences for name, each in found.items() if each.differences}


@pytest.mark.parametrize("way", WAYS)
def test_no_state_is_out_of_sync_or_healthy_too_early(place: Place, way: str) -> None:
    place.apply(JOBS_NEED)
    place.await_condition("modeldeployment", "echo", "Ready", 240)
    place.stop_operator()
    raws = manifests(way)
    sync(place, way, raws)
    before = verdicts(place, raws)
    assert out_of_sync(before) == {}
    assert {each.health for each in before.values()} == {"Progressing"}

    place.kubectl.run("scale", "-n", SYSTEM, "deployment/batchwright-operator", "--replicas=1")
    samples = watched(place, raws)
    settled = verdicts(place, raws)
    assert out_of_sync(settled) == {}
    assert {name: (each.health, each.kstatus) for name, each in settled.items()} == {
        name: (health, word) for name, (_, _, health, word) in STATES.items()
    }
    early = judged(place.cluster.kubeconfig, samples)
    assert out_of_sync(early) == {}
    for name, each in early.items():
        found = samples[name][1]
        if found["kind"] == "ModelDeployment" and "Healthy" in (
            each.health,
            each.kstatus.replace("Current", "Healthy"),
        ):
            assert found["status"]["readyReplicas"] == found["spec"]["replicas"], (name, each)
        if found["kind"] == "InferenceJob" and each.health == "Healthy":
            assert condition(found, "Complete")["status"] == "True", (name, each)
    print(
        f"{way}: {len(samples)} objects on their way, in sync each; {sorted({each.health for each in early.values()})}"
    )

    # And again, with a change: what another sync writes is in sync, and not healthy by what was before.
    raws["ready"]["spec"]["models"][0]["targets"] = {"latencyMilliseconds": 500}
    raws["ready"]["spec"]["replicas"] = 2
    place.stop_operator()
    sync(place, way, raws)
    changed = verdicts(place, raws)
    assert out_of_sync(changed) == {}
    assert (changed["ready"].health, changed["ready"].kstatus) == ("Progressing", "InProgress")
    place.kubectl.run("scale", "-n", SYSTEM, "deployment/batchwright-operator", "--replicas=1")
    place.kubectl.run("delete", "-n", PLACE, "infjob,mdep", "--all", "--timeout=120s", timeout_s=150)


def watched(place: Place, raws: dict[str, Raw]) -> dict[str, tuple[Raw, Raw]]:
    """Every version of each object that is seen until all are in their states."""
    seen: dict[str, tuple[Raw, Raw]] = {}

    def look() -> bool | None:
        arrived = []
        for name, raw in raws.items():
            found = live(place, raw)
            seen[f"{name}@{found['metadata']['resourceVersion']}"] = (raw, found)
            wanted = STATES[name][1]
            arrived.append(
                bool(found.get("status")) and (not wanted or condition(found, wanted).get("status") == "True")
            )
        return True if all(arrived) else None

    began = time.monotonic()
    wait_for(look, what="all states", timeout_s=240 * PATIENCE, every_s=0.2,
             seen=lambda: json.dumps({name: (live(place, raw).get("status") or {}).get("conditions")
                                      for name, raw in raws.items()})[:6000])  # fmt: skip
    print(f"all states after {time.monotonic() - began:.0f} s")
    return seen
