"""Pods as strangers' clusters have them: evicted, refused by kubelets, on nodes that are gone, with containers that
fail in other ways than the usual ones; and annotations and status fields that somebody else has written."""

from __future__ import annotations

from typing import Any

import pytest

from batchwright_operator.deployments.reconciler import ModelDeploymentReconciler
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.metadata import whole_number
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, CONFIG_MAP, CONTROLLER_REVISION, DEPLOYMENT, POD, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.applied import STAMP, WrittenStatuses
from batchwright_operator.settings import Settings
from batchwright_worker.api.names import ANNOTATION_KIND, COMPONENT_MODEL, LABEL_COMPONENT, LABEL_DEPLOYMENT
from tests.deployments.deployment_objects import (
    EMULATED,
    NAMESPACE,
    NVIDIA,
    deployment,
    emulated,
    model,
    profile,
    state,
)
from tests.deployments.deployment_world import World
from tests.deployments.kstatus import kstatus

NO_DEVICE = "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices nvidia.com/gpu"


def message(world: World, kind: str = "Ready") -> str:
    return str(find(world.status["conditions"], kind)["message"])


def with_containers(world: World, *containers: Raw, init: Raw | None = None) -> None:
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    status = {"phase": "Pending", "containerStatuses": list(containers)}
    status |= {"initContainerStatuses": [init]} if init else {}
    world.api.put(POD, world.api.place(pod, "node-a") | {"status": status})
    world.settle()


def waiting(name: str, reason: str, text: str = "", /, **last: Any) -> Raw:
    found: Raw = {"name": name, "image": "img:1", "state": {"waiting": {"reason": reason, "message": text}}}
    return found | ({"lastState": {"terminated": last}} if last else {})


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("ImageInspectError", "ImagePullFailed"),
        ("SignatureValidationFailed", "ImagePullFailed"),
        ("RegistryUnavailable", "ImagePullFailed"),
        ("PostStartHookError", "ContainerConfigFailed"),
        ("CreatePodSandboxError", "ContainerConfigFailed"),
        ("WhateverTheNextKubeletSays", "ContainerConfigFailed"),
        ("PodInitializing", "Progressing"),
    ],
)
def test_every_reason_of_a_kubelet_is_told_but_for_those_of_a_start(reason: str, told: str) -> None:
    world = World()
    with_containers(world, waiting("runtime", reason, "in its own words"))
    assert world.reason() == told
    assert ("in its own words" in message(world)) == (told == "ContainerConfigFailed")


def test_of_several_containers_the_worst_is_told() -> None:
    world = World()
    killed = waiting("runtime", "CrashLoopBackOff", reason="OOMKilled", exitCode=137)
    with_containers(world, killed, init=waiting("sidecar", "CrashLoopBackOff", exitCode=1, message="runtime is gone"))
    assert world.reason() == "OutOfMemory"


def ends(world: World, reason: str, text: str) -> None:
    """The kubelet refuses or evicts the pod that is there, and the ReplicaSet makes another."""
    [pod] = [each for each in world.api.pods() if each["status"]["phase"] != "Failed"]
    placed = world.api.place(pod, "node-a")
    world.api.put(POD, placed | {"status": {"phase": "Failed", "reason": reason, "message": text}})
    [replica_set] = pod["metadata"]["ownerReferences"]
    head = {**pod["metadata"], "name": f"{pod['metadata']['name']}x", "ownerReferences": [replica_set]}
    for name in ("uid", "creationTimestamp"):
        del head[name]
    world.api.put(POD, {"metadata": head, "spec": pod["spec"], "status": {"phase": "Pending"}})
    world.api.now += 5
    world.settle()


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("UnexpectedAdmissionError", NO_DEVICE),
        ("Evicted", "The node was low on resource: memory."),
        ("OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu"),
        ("NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed"),
        ("Terminated", ""),
    ],
)
def test_pods_that_end_one_after_the_other_are_told_in_the_words_of_the_kubelet(reason: str, text: str) -> None:
    world = World()
    world.settle()
    world.api.roll_out()
    for _ in range(2):
        ends(world, reason, text)
    assert world.reason() == "AwaitingPlacement", "a node that restarts ends one or two, which is no fault"
    ends(world, reason, text)
    assert (world.reason(), kstatus(world.raw)) == ("PodsEnded", "InProgress")
    assert f"last: {reason}" in message(world)
    assert text in message(world)
    [pod] = [each for each in world.api.pods() if each["status"]["phase"] != "Failed"]
    world.hear(world.api.start(world.api.place(pod, "node-b")), state())
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("Available", "Current"), "what is left behind is history"


def test_a_pod_of_a_node_that_does_not_answer_is_not_said_to_start() -> None:
    world = World()
    world.serve()
    [pod] = world.api.pods()
    conditions = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
    world.api.put(POD, pod | {"status": pod["status"] | {"conditions": conditions}})
    world.settle()
    assert world.reason() == "NodeNotReady"
    assert "node node-a, which does not answer" in message(world)
    gated = {**pod["spec"], "readinessGates": [{"conditionType": "example.org/in-the-balancer"}]}
    world.api.put(POD, pod | {"spec": gated, "status": pod["status"] | {"conditions": conditions}})
    world.settle()
    assert world.reason() != "NodeNotReady", "a gate is somebody else's word, of a pod whose node is well"


def test_a_deployment_that_cannot_be_deleted_is_told_with_what_it_waits_for() -> None:
    world = World()
    world.serve()
    [child] = world.api.all(DEPLOYMENT)
    leaving = {"deletionTimestamp": rfc3339(world.api.now), "finalizers": ["example.org/backup"]}
    world.api.put(DEPLOYMENT, child | {"metadata": child["metadata"] | leaving})
    decision = world.decide()
    assert decision.status is not None
    ready = find(decision.status.status["conditions"], "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ChildLeaving")
    assert "finalizers (example.org/backup)" in ready["message"]


def test_a_kind_that_only_some_models_have_is_said_not_to_be_used() -> None:
    """All of them run on CPUs then, on a cluster with GPUs, and nothing else says why."""
    models = [model("detector", emulated("cpu"), emulated(NVIDIA)), model("reader", emulated("cpu"))]
    world = World(deployment(models=models))
    world.serve()
    assert message(world) == "1 of 1 replica ready; not used: nvidia.com/gpu: no artifact in reader"


def test_devices_that_pods_of_strangers_claim_to_hold_are_no_reason_to_stay_on_a_worse_kind() -> None:
    """Whoever may make pods writes our labels on them."""
    models = [model("echo", emulated("cpu"), emulated(NVIDIA))]
    raw = deployment(models=models, placement={"preference": [NVIDIA, "cpu"]})
    world = World(raw)
    world.api.put(ACCELERATOR_PROFILE, profile("cpu-1", "cpu", 10))
    world.serve()
    forged = {
        "metadata": {
            "name": "forged",
            "namespace": "elsewhere",
            "labels": {LABEL_COMPONENT: COMPONENT_MODEL, LABEL_DEPLOYMENT: "x"},
            "annotations": {ANNOTATION_KIND: NVIDIA},
        },
        "spec": {"containers": [{"name": "a", "resources": {"limits": {NVIDIA: "1000"}}}]},
        "status": {"phase": "Pending"},
    }
    world.api.put(POD, forged)
    world.api.put(ACCELERATOR_PROFILE, profile("gpu-1", NVIDIA, 400, devices=1))
    world.settle()
    kinds = {each["metadata"]["annotations"][ANNOTATION_KIND] for each in world.api.all(DEPLOYMENT)}
    assert NVIDIA in kinds


@pytest.mark.parametrize("text", ["²", "٣", "9" * 5000, "-1", "1.5", "", "many"])
def test_an_annotation_that_is_no_number_ends_no_pass(text: str) -> None:
    assert whole_number(text) is None
    world = World()
    world.serve()
    [child] = world.api.all(DEPLOYMENT)
    notes = {f"batchwright.dev/{name}": text for name in ("leaving-replicas", "surge-replicas", "no-fit", "move")}
    metadata = child["metadata"] | {"annotations": child["metadata"]["annotations"] | notes}
    world.api.put(DEPLOYMENT, child | {"metadata": metadata})
    for each in list(world.api.pods()):
        written = each["metadata"]["annotations"] | {"controller.kubernetes.io/pod-deletion-cost": text}
        world.api.put(POD, each | {"metadata": each["metadata"] | {"annotations": written}})
    world.decide()
    assert isinstance(world.reconciler, ModelDeploymentReconciler)


def test_a_condition_of_somebody_else_is_no_reason_to_write_a_status_again() -> None:
    """It stays in the list by server-side apply; the time of the write alone is no news."""
    written = WrittenStatuses()
    metadata = {"name": "a", "uid": "1", "resourceVersion": "2"}
    ours: Raw = {"conditions": [{"type": "Ready"}], STAMP: "2026-01-01T00:00:00Z"}
    theirs: Raw = {"conditions": [{"type": "Ready"}, {"type": "Audited"}], STAMP: "2026-01-01T00:00:00Z"}
    written.remember(POD, ours, {"metadata": metadata, "status": theirs})
    again = ours | {STAMP: "2026-01-01T00:05:00Z"}
    assert written.is_settled(POD, {"metadata": metadata, "status": theirs}, again)
    assert not written.is_settled(POD, {"metadata": metadata, "status": theirs | {"conditions": []}}, again)
    assert not written.is_settled(POD, {"metadata": metadata, "status": theirs}, again | {"replicas": 1})


def test_a_history_that_somebody_deleted_costs_no_pod_whatever_the_operator_has_become() -> None:
    """Neither now nor when a target changes, which pods take over as they run."""
    world = World()
    world.serve()
    [before] = world.api.all(DEPLOYMENT)
    for each in world.api.all(CONTROLLER_REVISION):
        world.api.remove(CONTROLLER_REVISION, NAMESPACE, each["metadata"]["name"])
    world.reconciler = ModelDeploymentReconciler(Settings(worker_image="worker:2"), world.live)
    world.settle()
    world.change(models=[model(targets={"latencyMilliseconds": 50})])
    world.settle()
    [after] = world.api.all(DEPLOYMENT)
    [config] = world.api.all(CONFIG_MAP)
    assert after["spec"]["template"] == before["spec"]["template"]
    assert not config.get("immutable")
    assert '"latencyMilliseconds":50' in config["data"]["deployment.json"]


def test_emulated_devices_are_a_kind_like_any_other() -> None:
    """The kind that is refused may be any."""
    models = [model("a", emulated(EMULATED)), model("b", emulated(EMULATED), emulated("google.com/tpu"))]
    world = World(deployment(models=models))
    world.serve()
    assert "not used: google.com/tpu: no artifact in a" in message(world)
