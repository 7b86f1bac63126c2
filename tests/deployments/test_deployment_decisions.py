"""ModelDeployments: facts -> actions and status, on the small model of the API."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import (
    ACCELERATOR_PROFILE,
    CONFIG_MAP,
    DEPLOYMENT,
    MODEL_DEPLOYMENT,
    POD,
    PVC,
    Raw,
)
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.placement.receipts import render as receipt_text
from batchwright_operator.placement.scoring import TERMS
from batchwright_operator.reconcile.live_state import Received, Rejection
from batchwright_worker.api.messages import Receipt, RunnerUp
from batchwright_worker.api.names import ANNOTATION_RECEIPT, ANNOTATION_WAITING
from tests.deployments.crd_schema import problems
from tests.deployments.deployment_objects import (
    EMULATED,
    NAMESPACE,
    NVIDIA,
    change,
    deployment,
    emulated,
    histogram,
    model,
    model_state,
    profile,
    samples,
    state,
    tuning_state,
)
from tests.deployments.deployment_world import KEY, World, conditions
from tests.deployments.kstatus import kstatus
from tests.deployments.tiny_api import TinyApi


def test_the_first_visit_sets_every_condition_and_the_generation() -> None:
    world = World()
    world.settle()
    assert [each["type"] for each in world.status["conditions"]] == [
        "Ready",
        "Reconciling",
        "Stalled",
        "Available",
        "Progressing",
        "ModelsReady",
        "LatencyTargetMet",
        "UpToDate",
        "Configured",
    ]
    assert world.status["observedGeneration"] == 1
    assert kstatus(world.raw) == "InProgress"


def test_all_children_appear_and_the_second_pass_writes_nothing() -> None:
    world = World()
    world.settle()
    kinds = sorted(plural for plural, _, _ in world.api.objects)
    assert kinds == [
        "configmaps",
        "controllerrevisions",
        "deployments",
        "modeldeployments",
        "networkpolicies",
        "persistentvolumeclaims",
        "persistentvolumeclaims",
        "poddisruptionbudgets",
        "secrets",
        "services",
        "services",
    ]
    assert world.api.perform(world.decide()) == 0


def test_a_deployment_that_serves_is_ready_and_silent() -> None:
    world = World(deployment(replicas=2))
    events = world.serve()
    assert kstatus(world.raw) == "Current"
    assert (world.status["replicas"], world.status["readyReplicas"]) == (2, 2)
    assert [each.reason for each in events if each.reason == "Available"] == ["Available"]
    assert world.status["address"] == {"url": "http://ocr.shop.svc:8000"}
    assert world.status["summary"]["nodes"] == "node-a"
    world.api.now += 3600
    decision = world.decide()
    assert (world.api.perform(decision), decision.events) == (0, ())


def test_deletion_needs_nothing_of_us() -> None:
    world = World()
    world.settle()
    raw = world.raw
    world.api.put(MODEL_DEPLOYMENT, raw | {"metadata": raw["metadata"] | {"deletionTimestamp": rfc3339(world.api.now)}})
    assert world.reconciler.observe(world.api, KEY) is None
    world.api.remove(MODEL_DEPLOYMENT, NAMESPACE, "ocr")
    assert {plural for plural, _, _ in world.api.objects} == {"persistentvolumeclaims"}


def test_a_changed_configuration_is_rolled_out_and_the_old_one_goes_only_then() -> None:
    world = World()
    world.serve()
    world.change(queueOrder="Oldest")
    world.settle()
    assert len(world.api.all(CONFIG_MAP)) == 2
    assert kstatus(world.raw) == "InProgress"
    world.api.roll_out()
    for pod in list(world.api.pods()):
        world.hear(world.api.start(world.api.place(pod, "node-a")), state())
    world.settle()
    assert len(world.api.all(CONFIG_MAP)) == 1
    assert kstatus(world.raw) == "Current"


def test_a_new_spec_is_never_taken_for_ready_before_it_is_rolled_out() -> None:
    world = World()
    world.serve()
    world.change(runtimes=[{"accelerator": "cpu", "image": "new:2"}])
    decision = world.decide()
    assert decision.status is not None
    assert find(decision.status.status["conditions"], "Ready")["status"] == "False"


def test_scaled_to_zero_is_current_and_has_no_deployment() -> None:
    world = World()
    world.serve()
    world.change(replicas=0)
    world.settle()
    assert world.api.all(DEPLOYMENT) == []
    assert (kstatus(world.raw), world.reason()) == ("Current", "ScaledToZero")


def test_a_kind_that_vanishes_loses_its_deployment() -> None:
    world = World(deployment(models=[model("echo", emulated(), emulated("cpu"))], replicas=4))
    world.settle()
    assert len(world.api.all(DEPLOYMENT)) == 2
    world.change(models=[model("echo", emulated())])
    world.settle()
    [left] = world.api.all(DEPLOYMENT)
    assert left["metadata"]["annotations"]["batchwright.dev/accelerator-kind"] == EMULATED
    assert left["spec"]["replicas"] == 4


# --- replicas between kinds


def two_kinds() -> World:
    world = World(deployment(models=[model("echo", emulated(NVIDIA), emulated("cpu"))]))
    world.api.put(ACCELERATOR_PROFILE, profile("gpu-1", NVIDIA, 400, devices=1))
    world.api.put(ACCELERATOR_PROFILE, profile("cpu-1", "cpu", 10))
    return world


def kinds(world: World) -> dict[str, int]:
    notes = "batchwright.dev/accelerator-kind"
    return {each["metadata"]["annotations"][notes]: each["spec"]["replicas"] for each in world.api.all(DEPLOYMENT)}


def waits(world: World, reason: str) -> None:
    """Placement found no place for any pod that is gated."""
    for pod in list(world.api.pods()):
        notes = pod["metadata"]["annotations"] | {ANNOTATION_WAITING: f"{reason}: no node has a free device"}
        world.api.put(POD, pod | {"metadata": pod["metadata"] | {"annotations": notes}})


def test_a_slot_goes_to_another_kind_when_its_own_has_had_no_fit_for_30_s_and_stays_there() -> None:
    world = two_kinds()
    world.settle()
    assert kinds(world) == {NVIDIA: 1}
    world.api.roll_out()
    waits(world, "NoFittingProcessor")
    world.settle()
    decision = world.decide()
    assert kinds(world) == {NVIDIA: 1}
    assert decision.requeue_after_s == 30.0
    world.api.now += 30
    world.settle()
    assert kinds(world) == {"cpu": 1}
    world.api.roll_out()
    world.api.now += 5
    world.settle()
    assert kinds(world) == {"cpu": 1}


def test_replicas_do_not_wander_when_no_kind_has_a_place() -> None:
    world = two_kinds()
    world.settle()
    for _ in range(6):
        world.api.roll_out()
        waits(world, "NoFittingProcessor")
        world.settle()
        world.api.now += 31
    world.settle()
    before = world.api.writes
    world.api.now += 300
    assert world.api.perform(world.decide()) == 0
    assert world.api.writes == before
    assert (kstatus(world.raw), world.reason()) == ("InProgress", "NoFittingProcessor")
    world.late()
    assert kstatus(world.raw) == "Failed"


def test_a_pod_that_awaits_a_benchmark_keeps_its_kind() -> None:
    world = two_kinds()
    world.settle()
    world.api.roll_out()
    waits(world, "AwaitingBenchmark")
    world.api.now += 300
    world.settle()
    assert kinds(world) == {NVIDIA: 1}
    assert (kstatus(world.raw), world.reason()) == ("InProgress", "AwaitingBenchmark")


# --- reasons


def waiting(container: str, reason: str, message: str = "", /, **last: Any) -> Raw:
    found: Raw = {"name": container, "image": "img:1", "state": {"waiting": {"reason": reason, "message": message}}}
    return found | ({"lastState": {"terminated": last}} if last else {})


POD_TABLE = [
    pytest.param({"containerStatuses": [waiting("runtime", "ImagePullBackOff")]}, "ImagePullFailed", "img:1"),
    pytest.param({"containerStatuses": [waiting("runtime", "ErrImagePull")]}, "ImagePullFailed", "imagePullSecrets"),
    pytest.param(
        {"containerStatuses": [waiting("runtime", "CrashLoopBackOff", exitCode=3, message="no such model")]},
        "CrashLooping",
        "no such model",
    ),
    pytest.param(
        {"containerStatuses": [{"name": "runtime", "restartCount": 4, "ready": False, "state": {"running": {}}}]},
        "CrashLooping",
        "again and again",
    ),
    pytest.param(
        {"containerStatuses": [waiting("runtime", "CrashLoopBackOff", reason="OOMKilled", exitCode=137)]},
        "OutOfMemory",
        "memory limit",
    ),
    pytest.param(
        {"initContainerStatuses": [waiting("fetch", "CrashLoopBackOff", message="sha256 differs", exitCode=1)]},
        "FetchFailed",
        "sha256 differs",
    ),
    pytest.param(
        {"containerStatuses": [waiting("runtime", "CreateContainerConfigError", 'secret "hub" not found')]},
        "ContainerConfigFailed",
        "hub",
    ),
    pytest.param({"containerStatuses": [waiting("runtime", "ContainerCreating")]}, "Progressing", "starts"),
]


@pytest.mark.parametrize(("status", "reason", "said"), POD_TABLE)
def test_a_pod_that_does_not_run_says_why_and_is_no_failure_before_the_deadline(
    status: Raw, reason: str, said: str
) -> None:
    world = World()
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    world.api.put(POD, world.api.place(pod, "node-a") | {"status": {"phase": "Pending", **status}})
    events = world.settle()
    assert (world.reason(), kstatus(world.raw)) == (reason, "InProgress")
    assert said in find(world.status["conditions"], "Ready")["message"]
    kind = "Normal" if reason == "Progressing" else "Warning"
    assert {each.type for each in events if each.reason == reason} <= {kind}
    assert [each.type for each in world.late() if each.reason == reason] == ["Warning"]
    assert (world.reason(), kstatus(world.raw)) == (reason, "Failed")
    assert find(world.status["conditions"], "Progressing")["reason"] == "ProgressDeadlineExceeded"


def test_a_model_that_cannot_be_loaded_is_told_in_the_words_of_the_runtime() -> None:
    world = World()
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    failed = model_state(state="Failed", message="not an ONNX file")
    world.hear(world.api.start(world.api.place(pod, "n"), ready=False), state(failed, ready=False))
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("ModelLoadFailed", "InProgress")
    world.late()
    assert (world.reason(), kstatus(world.raw)) == ("ModelLoadFailed", "Failed")
    assert "recognizer: not an ONNX file" in find(world.status["conditions"], "Stalled")["message"]
    world.hear(world.api.start(pod), state())
    world.settle()
    assert kstatus(world.raw) == "Current"


def test_an_unschedulable_pod_is_told_after_a_while_and_stalled_after_the_deadline() -> None:
    world = World()
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes: cpu"}
    spec = {name: value for name, value in pod["spec"].items() if name != "schedulingGates"}
    world.api.put(POD, pod | {"spec": spec, "status": {"conditions": [told]}})
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("AwaitingPlacement", "InProgress")
    world.api.now += 31
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("Unschedulable", "InProgress")
    world.late()
    assert (world.reason(), kstatus(world.raw)) == ("Unschedulable", "Failed")


def test_a_pod_whose_volumes_never_come_is_told_after_a_while() -> None:
    world = World()
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    since = rfc3339(world.api.now)
    told = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": since},
        {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": since},
    ]
    world.api.put(POD, world.api.place(pod, "node-a") | {"status": {"phase": "Pending", "conditions": told}})
    world.settle()
    assert (world.reason(), world.decide().requeue_after_s) == ("Progressing", 60.0)
    world.api.now += 60
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("VolumesNotReady", "InProgress")
    world.late()
    assert (world.reason(), kstatus(world.raw)) == ("VolumesNotReady", "Failed")


def test_pods_that_cannot_be_created_are_stalled_after_the_deadline() -> None:
    world = World()
    world.settle()
    [child] = world.api.all(DEPLOYMENT)
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"}
    world.api.put(DEPLOYMENT, child | {"status": {"conditions": [failure]}})
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("PodsNotCreated", "InProgress")
    world.late()
    assert (world.reason(), kstatus(world.raw)) == ("PodsNotCreated", "Failed")


def test_a_refusal_of_the_api_server_is_shown_and_tried_again_all_the_same() -> None:
    world = World()
    before = world.decide().actions
    world.live.rejections[KEY] = Rejection(what="Deployment ocr-cpu", message="spec.template: Forbidden", at=0)
    assert world.decide().actions == before
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("Rejected", "Failed")
    world.live.rejections.clear()
    world.serve()
    assert kstatus(world.raw) == "Current"


def test_a_missing_claim_says_so_and_recovers() -> None:
    world = World(claim=False)
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("ClaimNotFound", "InProgress")
    assert world.decide().requeue_after_s == 5.0
    world.late()
    assert (world.reason(), kstatus(world.raw)) == ("ClaimNotFound", "Failed")
    world.api.put(PVC, {"metadata": {"name": "models", "namespace": NAMESPACE}})
    world.serve()
    assert kstatus(world.raw) == "Current"


def test_no_common_accelerator_touches_no_child() -> None:
    world = World()
    world.serve()
    world.change(models=[model("a", emulated("cpu")), model("b", emulated())])
    world.settle()
    assert (world.reason(), kstatus(world.raw)) == ("NoCommonAccelerator", "Failed")
    assert len(world.api.all(DEPLOYMENT)) == 1


def test_a_stored_object_that_breaks_the_schema_is_told_and_left_alone() -> None:
    world = World(deployment(models=[{"name": "x"}]))
    events = world.settle()
    assert kstatus(world.raw) == "Failed"
    assert "spec.models[0]" in find(world.status["conditions"], "Stalled")["message"]
    assert [each.reason for each in events] == ["InvalidSpec"]
    assert world.api.all(DEPLOYMENT) == []


# --- what sidecars say


def test_how_a_model_was_cut_into_layers_is_told() -> None:
    world = World(deployment(replicas=1))
    world.serve()
    [pod] = world.api.pods()
    cut = "18 units, 2 of them resident, 102.1 MB; compute 60.0 ms, fetch 90.0 ms: bound by memory"
    world.hear(pod, state(model_state(layerwise=cut)))
    world.later()
    assert [each["layerwise"] for each in world.status["models"]] == [cut]


def test_why_a_model_is_served_whole_is_told() -> None:
    world = World(deployment(replicas=1))
    world.serve()
    [pod] = world.api.pods()
    why = "each request runs alone, whole: the answer of a row in output 'y' changes with the row behind it"
    world.hear(pod, state(model_state(mode="Whole", message=why)))
    world.later()
    assert [(each["mode"], each["message"]) for each in world.status["models"]] == [("Whole", why)]


def test_models_are_pooled_over_replicas() -> None:
    world = World(deployment(replicas=3))
    world.serve()
    said = [
        state(model_state(batch_size=8, trend="Rising", trend_z=2.0, throughput=10.4, queue_length=1)),
        state(model_state(batch_size=8, trend="Rising", trend_z=2.2, throughput=10.4, queue_length=2)),
        state(model_state(batch_size=16, trend="Flat", throughput=10.4, latency_counts=histogram(*[40.0] * 20))),
    ]
    for pod, each in zip(world.api.pods(), said, strict=True):
        world.hear(pod, each)
    world.later()
    [found] = world.status["models"]
    latencies = found.pop("latencyMilliseconds")
    assert found == {
        "name": "recognizer",
        "readyReplicas": 3,
        "batchSize": 8,
        "batchSizeMin": 8,
        "batchSizeMax": 16,
        "trend": "Rising",
        "trendZ": "2.10",
        "throughput": 31,
        "queueLength": 3,
    }
    assert 38 <= latencies["p50"] <= latencies["p95"] <= latencies["p99"] <= 48
    assert world.status["summary"]["batch"] == "8"
    assert [each["models"][0]["batchSize"] for each in world.status["replicaStatuses"]] == [8, 8, 16]


@pytest.mark.parametrize(
    ("met", "status", "reason"),
    [
        ([None, None], "Unknown", "NoTraffic"),
        ([True, None], "True", "TargetMet"),
        ([True, False], "False", "TargetMissed"),
    ],
)
def test_the_latency_target_over_replicas(met: list[bool | None], status: str, reason: str) -> None:
    world = World(deployment(replicas=2))
    world.serve()
    for pod, each in zip(world.api.pods(), met, strict=True):
        world.hear(pod, state(model_state(latency_target_met=each)))
    world.later()
    found = find(world.status["conditions"], "LatencyTargetMet")
    assert (found["status"], found["reason"]) == (status, reason)


@pytest.mark.parametrize("met", [None, True, False])
def test_without_a_latency_target_it_is_unknown_whether_it_is_met(met: bool | None) -> None:
    world = World(deployment(models=[model(targets={"throughput": 100})]))
    world.serve(state(model_state(latency_target_met=met)))
    found = find(world.status["conditions"], "LatencyTargetMet")
    assert (found["status"], found["reason"]) == ("Unknown", "NoTarget")


def test_the_status_tells_why_a_size_is_held_and_what_bounds_a_batch() -> None:
    world = World(deployment(replicas=3))
    world.serve()
    said = [
        tuning_state(8, "AtMaximum", published_throughput=100.4, possible_throughput=300.2),
        tuning_state(8, "AtMaximum", published_throughput=100.4, possible_throughput=300.2),
        tuning_state(5, "TargetMet", published_throughput=50.0, possible_throughput=200.0),
    ]
    for pod, each in zip(world.api.pods(), said, strict=True):
        world.hear(pod, state(model_state(tuning=each, searching=False)))
    world.later()
    assert world.status["models"][0]["tuning"] == {
        "controller": "Auto",
        "proposedSize": 8,
        "heldBecause": "AtMaximum",
        "heldBy": "StopRule",
        "searching": False,
        "rowsLimit": 8,
        "boundBy": "InTime",
        "fit": {"fixedMilliseconds": "10.00", "perRowMilliseconds": "2.000", "knee": 32},
        "publishedThroughput": 251,
        "possibleThroughput": 800,
    }
    assert problems("modeldeployments", world.status) == []


def test_what_was_measured_last_stands_while_nothing_is_measured_and_the_target_is_the_same() -> None:
    world = World()
    world.serve(state(model_state(latency_target_met=False, throughput=5.0, latency_counts=histogram(200.0))))
    [pod] = world.api.pods()
    before = world.status
    world.hear(pod, state(model_state(throughput=5.0), revision=2))
    world.api.now += 60
    assert world.api.perform(world.decide()) == 0
    assert world.status == before
    world.change(models=[model(targets={"latencyMilliseconds": 500})])
    world.settle()
    assert conditions(world)["LatencyTargetMet"] == "Unknown"


@pytest.mark.parametrize(
    ("said", "shown"), [("Up", "Rising"), ("Down", "Falling"), ("Falling", "Falling"), ("?", "Flat")]
)
def test_a_trend_is_told_in_the_words_of_the_api(said: str, shown: str) -> None:
    world = World()
    world.serve(state(model_state(trend=said)))
    assert world.status["models"][0]["trend"] == shown
    assert problems("modeldeployments", world.status) == []


def test_a_changed_batch_size_is_written_with_one_event() -> None:
    world = World()
    world.serve()
    [pod] = world.api.pods()
    now = world.api.now
    world.hear(pod, state(model_state(batch_size=5, changes=[change(now + 0.25, 4, 5)])))
    events = world.later()
    assert [(each.reason, each.message) for each in events] == [
        ("LatencyBelowTarget", f"recognizer in {pod['metadata']['name']}: batch size 4 -> 5: p95 is 40 of 100 ms")
    ]
    assert world.status["models"][0]["lastChangeReason"] == "LatencyBelowTarget"
    assert world.status["models"][0]["lastChangeTime"].endswith(".250Z")
    assert world.settle() == []
    more = [change(now + 0.25, 4, 5), change(now + 1.25, 5, 6), change(now + 2.25, 6, 7)]
    world.hear(pod, state(model_state(batch_size=7, changes=more)))
    assert [each.message.split(": ")[1] for each in world.later()] == ["batch size 5 -> 6", "batch size 6 -> 7"]


def test_a_change_of_one_replica_is_told_though_another_changed_later() -> None:
    world = World(deployment(replicas=2))
    world.serve()
    first, second = world.api.pods()
    now = world.api.now
    world.hear(first, state(model_state(batch_size=5, changes=[change(now + 9, 4, 5)])))
    assert len(world.later()) == 1
    world.hear(second, state(model_state(batch_size=3, changes=[change(now + 8, 4, 3)])))
    assert [second["metadata"]["name"] in each.message for each in world.later()] == [True]
    assert world.settle() == []


def test_a_restarted_operator_repeats_nothing_and_takes_nothing_back() -> None:
    world = World()
    said = state(
        model_state(batch_size=5, throughput=50.0, changes=[change(1.5, 4, 5)], latency_counts=histogram(50.0))
    )
    world.serve(said)
    [uid] = world.live.sidecars
    before = world.status
    world.live.sidecars.clear()
    world.api.now += 60
    decision = world.decide()
    assert (world.api.perform(decision), decision.events) == (0, ())
    world.live.sidecars[uid] = Received(state=said, received_at=0)
    assert world.settle() == []
    assert world.status == before


def test_receipts_become_placements_newest_first_beside_what_is_observed() -> None:
    world = World(deployment(replicas=25))
    world.serve(state(model_state(throughput=12.0)))
    for number, pod in enumerate(list(world.api.pods())):
        terms = {"utilization": "0.30", "memory": "0.05", "capacity": "0.06", "pending": "0.00"}
        receipt = Receipt(
            node="node-b",
            processor="cpu",
            load="0.41",
            terms=terms,
            predicted_throughput=11.6,
            decided_time=f"2026-11-22T10:00:{number:02d}Z",
        )
        notes = pod["metadata"]["annotations"] | {ANNOTATION_RECEIPT: receipt_text(receipt)}
        world.api.put(POD, pod | {"metadata": pod["metadata"] | {"annotations": notes}})
    world.settle()
    found = world.status["placements"]
    assert len(found) == 20
    assert [each["decidedTime"][-3:] for each in found[:2]] == ["24Z", "23Z"]
    assert (found[0]["predictedThroughput"], found[0]["observedThroughput"]) == (12, 12)
    assert found[0]["terms"]["utilization"] == "0.30"


def test_a_full_status_is_as_the_schema_has_it() -> None:
    world = World(deployment(replicas=2))
    said = model_state(
        throughput=9.0,
        trend="Falling",
        trend_z=-1.96,
        latency_counts=histogram(30.0, 50.0),
        latency_target_met=True,
        changes=[change(1_800_000_000.5, 5, 4)],
    )
    world.serve(state(said))
    zero = dict.fromkeys(TERMS, "0.00")
    other = RunnerUp(node="node-b", processor="cpu", load="0.63")
    receipts = [
        Receipt(node="node-a", processor="cpu", load="0.41", terms=zero, runners_up=[other], predicted_throughput=3.5),
        Receipt(node="", processor="cpu", load="", terms=zero, decided_time="2026-11-22T10:00:00Z", reason="released"),
    ]
    for pod, receipt in zip(list(world.api.pods()), receipts, strict=True):
        notes = pod["metadata"]["annotations"] | {ANNOTATION_RECEIPT: receipt_text(receipt)}
        world.api.put(POD, pod | {"metadata": pod["metadata"] | {"annotations": notes}})
    [first, _] = world.api.pods()
    world.api.start(first, ready=False)
    world.settle()
    assert "message" in world.status["replicaStatuses"][0]
    assert len(world.status["placements"]) == 2
    assert problems("modeldeployments", world.status) == []
    assert problems("modeldeployments", world.status | {"oddField": 1}) != []


# --- properties


specs = st.fixed_dictionaries(
    {"replicas": st.integers(0, 4), "models": st.sampled_from([each["spec"]["models"] for each in samples().values()])}
)


@effort(max_examples=40, deadline=None)
@given(st.lists(specs, min_size=1, max_size=4), st.data())
def test_whatever_the_user_does_the_plan_settles_and_leaves_nothing(history: list[Raw], data: st.DataObject) -> None:
    """Eventually stable: desired becomes actual in a few passes, then no write, and the same from anywhere."""
    world = World()
    for spec in history:
        world.change(**spec)
        if data.draw(st.booleans(), label="interrupted"):
            world.api.perform(world.decide())
        else:
            world.serve()
    world.serve()
    world.serve()
    assert kstatus(world.raw) == "Current"
    world.api.now += 1000
    assert world.api.perform(world.decide()) == 0
    fresh = World()
    fresh.change(**history[-1])
    fresh.serve()
    fresh.serve()
    assert names(fresh.api) == names(world.api)


def names(api: TinyApi) -> list[tuple[str, str]]:
    """All but pods and the history."""
    return sorted((plural, name) for plural, _, name in api.objects if plural not in ("pods", "controllerrevisions"))


def two_models(readiness: str) -> tuple[World, Raw]:
    """A replica that is ready, of two models of which one cannot be loaded."""
    world = World(deployment(models=[model("good"), model("broken")], readiness=readiness))
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    failed = model_state("broken", state="Failed", message="not an ONNX file")
    world.hear(world.api.start(world.api.place(pod, "n")), state(model_state("good"), failed))
    world.api.roll_out()
    world.settle()
    return world, pod


@pytest.mark.parametrize(("readiness", "verdict"), [("Any", "Current"), ("All", "InProgress")])
def test_a_broken_model_beside_a_good_one(readiness: str, verdict: str) -> None:
    world, _ = two_models(readiness)
    assert kstatus(world.raw) == verdict
    found = find(world.status["conditions"], "ModelsReady")
    assert (found["status"], found["reason"]) == ("False", "ModelLoadFailed")
    assert found["message"] == "broken: not an ONNX file"
    good, broken = world.status["models"]
    assert (good["readyReplicas"], "message" in good) == (1, False)
    assert (broken["readyReplicas"], broken["message"]) == (0, "not an ONNX file")


def test_every_model_is_ready_once_the_artifact_is_mended() -> None:
    world, pod = two_models("Any")
    world.hear(pod, state(model_state("good"), model_state("broken")))
    world.settle()
    assert conditions(world)["ModelsReady"] == "True"
    assert [each["readyReplicas"] for each in world.status["models"]] == [1, 1]


def test_a_text_about_many_models_names_a_few() -> None:
    names = [f"m{number}" for number in range(100)]
    world = World(deployment(models=[model(name) for name in names]))
    world.settle()
    world.api.roll_out()
    [pod] = world.api.pods()
    failed = [model_state(name, state="Failed", message="x" * 2000) for name in names]
    world.hear(world.api.start(world.api.place(pod, "n"), ready=False), state(*failed, ready=False))
    world.settle()
    found = find(world.status["conditions"], "ModelsReady")
    assert "and 95 more" in found["message"] or len(found["message"]) <= 1024
    assert world.status["summary"]["batch"] == "4"


def test_single_replicas_models_are_left_out_where_they_are_too_many() -> None:
    names = [f"m{number}" for number in range(400)]
    world = World(deployment(models=[model(name) for name in names], replicas=3))
    world.serve()
    for pod in world.api.pods():
        world.hear(pod, state(*(model_state(name) for name in names)))
    world.later()
    assert ["models" in each for each in world.status["replicaStatuses"]] == [False] * 3
    assert [each["readyReplicas"] for each in world.status["models"]] == [3] * 400
