"""InferenceJobs: facts -> actions and status, on the small model of the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from batchwright_operator.jobs.reconciler import InferenceJobReconciler
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import CONFIG_MAP, CORE_EVENT, INFERENCE_JOB, JOB, MODEL_DEPLOYMENT, POD, PVC
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.reconcile.decisions import Create, Delete, Patch
from batchwright_operator.reconcile.live_state import Rejection
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import CommitResult, ItemFailure, PlanResult
from tests.deployments.crd_schema import problems
from tests.deployments.deployment_objects import NAMESPACE, deployment, model
from tests.deployments.kstatus import kstatus
from tests.jobs.job_objects import KEY, World, job, runner

ALL = ["Complete", "Failed", "Suspended", "Reconciling", "Stalled", "DeadlineAtRisk", "WaitingForModels"]


def test_the_first_visit_sets_every_condition_and_plans() -> None:
    world = World()
    world.settle()
    assert [each["type"] for each in world.status["conditions"]] == ALL
    assert world.child("plan") is not None
    assert world.child("run") is None
    assert (world.true(), kstatus(world.raw)) == ([], "Current")
    assert world.status["summary"]["reason"] == "Planning"


def test_runners_verify_deployments_that_are_served_by_tls() -> None:
    world = World(served=False)
    world.serve(tls={"secretRef": {"name": "ocr-tls"}})
    world.planned()
    run = world.child("run")
    assert run is not None
    [volume] = [each for each in run["spec"]["template"]["spec"]["volumes"] if each["name"] == "tls-ocr"]
    assert (volume["secret"]["secretName"], [each["key"] for each in volume["secret"]["items"]]) == (
        "ocr-tls",
        ["ca.crt"],
    )
    [config] = [each for each in world.api.all(CONFIG_MAP) if "job.json" in each["data"]]
    assert json.loads(config["data"]["job.json"])["tls"]["ocr"]["serverName"] == "ocr.shop.svc"


def test_runners_show_a_certificate_where_one_is_asked_for() -> None:
    world = World(served=False)
    world.serve(tls={"secretRef": {"name": "ocr-tls"}, "clientAuth": "Required", "jobsSecretRef": {"name": "jobs"}})
    world.planned()
    run = world.child("run")
    assert run is not None
    pod = run["spec"]["template"]["spec"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "client-tls-ocr"]
    assert volume["secret"]["secretName"] == "jobs"
    [place] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "client-tls-ocr"]
    [config] = [each for each in world.api.all(CONFIG_MAP) if "job.json" in each["data"]]
    trusted = json.loads(config["data"]["job.json"])["tls"]["ocr"]
    pair = [f"{place['mountPath']}/{item['path']}" for item in volume["secret"]["items"]]
    assert [trusted["certFile"], trusted["keyFile"]] == pair


def test_no_runner_starts_without_the_certificate_that_is_asked_for() -> None:
    world = World(served=False)
    world.serve(tls={"secretRef": {"name": "ocr-tls"}, "clientAuth": "Required"})
    world.settle()
    assert world.status["summary"]["reason"] == "ClientCertificateMissing"
    assert "spec.tls.jobsSecretRef" in find(world.status["conditions"], "WaitingForModels")["message"]
    assert world.child("plan") is None


def test_from_plan_over_shards_to_commit() -> None:
    world = World()
    world.planned()
    run = world.child("run")
    assert run is not None
    expected = {"completionMode": "Indexed", "completions": 3, "parallelism": 2, "backoffLimitPerIndex": 3}
    assert expected.items() <= run["spec"].items()
    assert world.status["shards"] == {"total": 3, "completedIndexes": "", "failedIndexes": ""}
    world.api.now += 10
    world.committed()
    events = world.settle()
    assert [each.reason for each in events] == ["Completed"]
    assert world.true() == ["Complete"]
    assert world.status["items"] == {"total": 25, "succeeded": 24, "failed": 1}
    assert world.status["progressPercentage"] == 100
    assert world.status["summary"]["reason"] == "Completed"
    assert kstatus(world.raw) == "Current"


def test_a_job_that_ended_is_never_written_again() -> None:
    world = World()
    world.planned()
    world.committed()
    world.settle()
    for name in ("plan", "run", "commit"):
        world.api.remove(JOB, NAMESPACE, f"pages-{name}")
    world.serve(0)
    world.api.now += 10_000
    decision = world.decide()
    assert (decision.actions, decision.status, decision.events) == ((), None, ())


def test_a_running_job_is_current_and_progress_comes_from_its_runners() -> None:
    world = World()
    world.planned()
    first, second = world.pod("run", "run-0", 0), world.pod("run", "run-1", 1)
    world.api.now += 10
    world.hear(
        first, runner(0, 6, 1, failures=[ItemFailure(shard=0, item="a.png", task="decode", message="truncated")])
    )
    world.hear(second, runner(1, 3))
    world.settle()
    assert world.status["items"] == {"total": 25, "succeeded": 9, "failed": 1}
    assert (world.status["progressPercentage"], world.status["throughput"]) == (40, "1.00")
    assert world.status["estimatedRemainingSeconds"] == 15
    assert world.status["summary"] == {
        "reason": "Running",
        "progress": "40%",
        "throughput": "1.00",
        "failed": 1,
        "eta": "15s",
    }
    assert world.status["failures"] == [{"shard": 0, "item": "a.png", "task": "decode", "message": "truncated"}]
    assert world.status["tasks"][1] == {
        "name": "read",
        "kind": "Model",
        "succeeded": 9,
        "failed": 1,
        "meanBatchSize": "4.0",
    }
    assert (world.true(), kstatus(world.raw)) == ([], "Current")


def test_progress_is_written_at_most_every_two_seconds_but_a_turn_at_once() -> None:
    world = World()
    world.planned()
    pod = world.pod("run", "run-0", 0)
    world.api.now += 5
    world.hear(pod, runner(0, 1))
    assert world.api.perform(world.decide()) == 1
    world.api.now += 0.5
    world.hear(pod, runner(0, 2))
    decision = world.decide()
    assert decision.status is None
    assert decision.requeue_after_s == pytest.approx(1.5)
    world.change(suspend=True)
    world.settle()
    assert world.true() == ["Suspended"]


def test_of_many_running_jobs_each_writes_its_progress_less_often_and_finished_ones_do_not_count() -> None:
    """Four writes a second for all of them."""
    world = World()
    world.planned()
    pod = world.pod("run", "run-0", 0)
    world.api.now += 5
    world.hear(pod, runner(0, 1))
    assert world.api.perform(world.decide()) == 1
    ended = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    for number in range(400):
        world.api.objects[INFERENCE_JOB.plural, "other", f"running-{number}"] = {}
        world.api.objects[INFERENCE_JOB.plural, "other", f"ended-{number}"] = ended
    world.api.now += 60
    world.hear(pod, runner(0, 2))
    decision = world.decide()
    assert decision.status is None
    assert decision.requeue_after_s == pytest.approx(401 / 4 - 60)
    world.api.now += 41
    assert world.decide().status is not None


def test_a_killed_runner_takes_its_count_along_and_a_restarted_operator_does_not() -> None:
    world = World()
    world.planned()
    pod = world.pod("run", "run-0a", 0)
    world.api.now += 10
    world.hear(pod, runner(0, 8))
    world.settle()
    world.live.runners.clear()
    world.api.now += 10
    world.settle()
    assert world.status["items"]["succeeded"] == 8, "the operator has just started: nothing is taken back"
    world.api.remove(POD, NAMESPACE, "run-0a")
    again = world.pod("run", "run-0b", 0)
    world.hear(again, runner(0, 2))
    world.api.now += 10
    world.settle()
    assert world.status["items"]["succeeded"] == 2


def test_a_finished_shard_counts_from_its_last_word_and_when_that_is_lost_by_its_size() -> None:
    world = World()
    world.planned()
    pod = world.pod("run", "run-0", 0)
    world.api.now += 10
    world.end(pod, runner(0, 9, 1, done=True))
    world.tell("run", completedIndexes="0")
    world.settle()
    assert world.status["items"] == {"total": 25, "succeeded": 9, "failed": 1}
    world.api.remove(POD, NAMESPACE, "run-0")
    world.tell("run", completedIndexes="0,2")
    world.api.now += 10
    world.settle()
    assert world.status["items"]["succeeded"] == 15, "10 items of shard 0 and 5 of the last"
    assert world.status["shards"]["completedIndexes"] == "0,2"


def test_a_failed_attempt_does_not_count() -> None:
    world = World()
    world.planned()
    world.end(world.pod("run", "run-0", 0), runner(0, 9, error="sidecar gone"), code=1)
    world.api.now += 10
    world.settle()
    assert world.status["items"]["succeeded"] == 0


def test_a_full_status_is_as_the_schema_has_it() -> None:
    world = World(job(activeDeadlineSeconds=60))
    world.planned()
    pod = world.pod("run", "run-0", 0)
    world.api.now += 10
    bad = ItemFailure(shard=0, item="a.png", task="decode", message="truncated")
    world.hear(pod, runner(0, 6, 1, failures=[bad]))
    world.settle()
    assert {"throughput", "estimatedRemainingSeconds", "lastUpdatedTime"} <= world.status.keys()
    assert problems("inferencejobs", world.status) == []
    world.committed()
    world.settle()
    assert "completionTime" in world.status
    assert problems("inferencejobs", world.status) == []


# --- models


def test_no_job_is_started_before_its_deployment_exists() -> None:
    world = World(served=False)
    events = world.settle()
    assert world.api.all(JOB) == []
    assert world.true() == ["Reconciling", "WaitingForModels"]
    assert world.said("WaitingForModels").startswith("DeploymentMissing: there is no ModelDeployment ocr")
    assert [each.reason for each in events] == ["WaitingForModels"]
    assert (kstatus(world.raw), world.decide().requeue_after_s) == ("InProgress", 3.0)
    world.serve(0)
    world.settle()
    assert world.child("plan") is not None
    assert world.said("WaitingForModels") == (
        "DeploymentNotReady: ModelDeployment ocr has no ready replica (Progressing: soon)"
    )
    world.serve()
    world.settle()
    assert (world.true(), kstatus(world.raw)) == ([], "Current")


def test_an_unknown_model_is_told_and_stalled_after_the_deadline_until_it_is_there() -> None:
    world = World()
    world.api.put(MODEL_DEPLOYMENT, deployment(models=[model("detector")]))
    world.settle()
    assert world.api.all(JOB) == []
    assert (world.true(), kstatus(world.raw)) == (["Reconciling", "WaitingForModels"], "InProgress")
    world.late()
    assert (world.true(), kstatus(world.raw)) == (["Stalled", "WaitingForModels"], "Failed")
    assert "task read: ModelDeployment ocr has no model recognizer (it has detector)" in world.said("Stalled")
    world.serve()
    world.settle()
    assert (world.child("plan") is not None, kstatus(world.raw)) == (True, "Current")


def test_a_deployment_deleted_meanwhile_is_told_and_the_runners_wait() -> None:
    world = World()
    world.planned()
    world.api.remove(MODEL_DEPLOYMENT, NAMESPACE, "ocr")
    world.settle()
    assert world.true() == ["WaitingForModels"]
    run = world.child("run")
    assert run is not None
    assert run["spec"]["suspend"] is False


def test_a_missing_claim_is_stalled_after_the_deadline_and_recovers() -> None:
    world = World(claim=False)
    world.settle()
    assert (world.true(), kstatus(world.raw)) == (["Reconciling"], "InProgress")
    world.late()
    assert (world.true(), kstatus(world.raw)) == (["Stalled"], "Failed")
    assert "PersistentVolumeClaim data does not exist in namespace shop" in world.said("Stalled")
    world.api.put(PVC, {"metadata": {"name": "data", "namespace": NAMESPACE}})
    world.settle()
    assert world.child("plan") is not None


# --- failure


def fail_plan(world: World) -> None:
    world.settle()
    text = "pvc://data/pages: no such directory; correct spec.input.uri"
    world.end(world.pod("plan", "plan-1"), PlanResult(error=text, reason="InputNotFound"), code=42)
    world.tell("plan", "Failed", reason="PodFailurePolicy")


def fail_shard(world: World) -> None:
    world.planned()
    world.end(world.pod("run", "run-1", 1), runner(1, error="the input changed since it was planned"), code=42)
    world.tell("run", "FailureTarget", reason="MaxFailedIndexesExceeded", failedIndexes="1")


def fail_commit(world: World) -> None:
    world.planned()
    world.tell("run", "Complete")
    world.settle()
    world.end(
        world.pod("commit", "c"), CommitResult(error="part-00001.jsonl is missing", reason="PartMissing"), code=42
    )
    world.tell("commit", "Failed", reason="BackoffLimitExceeded")


def fail_items(world: World) -> None:
    world.planned()
    pod = world.pod("run", "run-0", 0)
    world.hear(pod, runner(0, 2, 6))


def fail_in_time(world: World) -> None:
    world.planned()
    world.settle()
    world.api.now += 601


def plan_without_words(world: World) -> None:
    world.settle()
    world.end(world.pod("plan", "plan-1"), "Traceback: disk on fire", code=1)
    world.tell("plan", "Failed", reason="BackoffLimitExceeded")


FAILURES = [
    (fail_plan, "InputNotFound", "no such directory"),
    (plan_without_words, "PlanFailed", "disk on fire"),
    (fail_shard, "ShardFailed", "shard 1 failed permanently: the input changed"),
    (fail_commit, "PartMissing", "part-00001.jsonl is missing"),
    (fail_items, "MaxFailedItemsExceeded", "6 items failed, spec.maxFailedItems is 5"),
    (fail_in_time, "DeadlineExceeded", "spec.activeDeadlineSeconds (600)"),
]


@pytest.mark.parametrize(("fail", "reason", "said"), FAILURES)
def test_a_failure_is_final_stalled_and_says_what_to_do(fail: Any, reason: str, said: str) -> None:
    world = World(job(maxFailedItems=5, activeDeadlineSeconds=600))
    fail(world)
    events = world.settle()
    assert (world.true(), kstatus(world.raw)) == (["Failed", "Stalled"], "Failed")
    assert said in world.said("Failed")
    assert [each.reason for each in events if each.reason in ("Failed", "ShardFailed")][-1] == "Failed"
    assert world.status["summary"]["reason"] == reason
    for child in world.api.all(JOB):
        ended = any(each["status"] == "True" for each in child["status"].get("conditions") or [])
        assert ended or child["spec"]["suspend"]
    world.api.now += 10_000
    assert world.api.perform(world.decide()) == 0


def test_an_empty_plan_is_a_failure() -> None:
    world = World()
    world.settle()
    world.end(world.pod("plan", "plan-1"), PlanResult(items=0, shards=0))
    world.tell("plan", "Complete")
    world.settle()
    assert world.status["summary"]["reason"] == "InputEmpty"


def test_a_plan_whose_words_are_lost_is_made_again() -> None:
    world = World()
    world.settle()
    world.tell("plan", "Complete")
    before = world.child("plan")
    world.settle()
    after = world.child("plan")
    assert before is not None
    assert after is not None
    assert before["metadata"]["uid"] != after["metadata"]["uid"]
    assert world.child("run") is None


def test_what_a_deleted_job_of_the_same_name_left_is_removed_and_never_taken_for_its_own() -> None:
    world = World()
    world.planned()
    world.end(world.pod("run", "run-1", shard=0), runner(0, 10, done=True))
    left = [(name, found["metadata"]["uid"]) for name in ("plan", "run") if (found := world.child(name))]
    metadata = {"name": "pages", "namespace": NAMESPACE, "uid": "uid-of-the-next"}
    world.api.put(INFERENCE_JOB, job() | {"metadata": metadata})  # the garbage collector is late

    def removed() -> list[tuple[str, str]]:
        found = [each for each in world.decide().actions if isinstance(each, Delete)]
        return [(each.name.removeprefix("pages-"), each.uid) for each in found]

    assert removed() == left
    world.api.put(INFERENCE_JOB, world.raw | {"metadata": metadata | {"creationTimestamp": rfc3339(0)}})
    assert removed() == [], "they are younger: it is we who look at a job that is gone"
    world.api.put(INFERENCE_JOB, job() | {"metadata": metadata})
    world.settle()
    assert world.status["summary"]["reason"] == "Planning"
    assert world.status["items"] == {"succeeded": 0, "failed": 0}
    plan = world.child("plan")
    assert plan is not None
    assert plan["metadata"]["ownerReferences"][0]["uid"] == "uid-of-the-next"


def test_an_image_that_cannot_be_pulled_is_told_and_stalled_after_the_deadline_but_not_failed() -> None:
    world = World()
    world.settle()
    pod = world.pod("plan", "plan-1")
    waiting = {"name": "runner", "image": "nope:1", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    world.api.put(POD, pod | {"status": {"phase": "Pending", "containerStatuses": [waiting]}})
    events = world.settle()
    assert [(each.type, each.reason) for each in events] == [("Warning", "ImagePullFailed")]
    assert (world.true(), kstatus(world.raw)) == (["Reconciling"], "InProgress")
    world.late()
    assert (world.true(), kstatus(world.raw)) == (["Stalled"], "Failed")
    assert "spec.runner.pod.imagePullSecrets" in world.said("Stalled")
    world.api.put(POD, pod)
    world.settle()
    assert world.true() == []


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"},
            "Unschedulable",
        ),
        ({"type": "PodReadyToStartContainers", "status": "False"}, "VolumesNotReady"),
    ],
)
def test_a_pod_that_cannot_start_is_told_after_a_while(condition: Any, reason: str) -> None:
    world = World()
    world.settle()
    pod = world.pod("plan", "plan-1")
    since = rfc3339(world.api.now)
    told = [condition | {"lastTransitionTime": since}]
    if condition["type"] != "PodScheduled":
        told.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": since})
    world.api.put(POD, pod | {"status": {"phase": "Pending", "conditions": told}})
    world.settle()
    assert (world.true(), world.decide().requeue_after_s) == ([], 30.0)
    world.api.now += 60
    world.settle()
    assert (world.true(), world.status["summary"]["reason"]) == (["Reconciling"], reason)
    world.late()
    assert (world.true(), world.status["summary"]["reason"]) == (["Stalled"], reason)


def test_a_refusal_is_shown_and_tried_again_all_the_same() -> None:
    world = World()
    before = world.decide().actions
    world.live.rejections[KEY] = Rejection(what="Job pages-plan", message="exceeded quota", at=0)
    assert world.decide().actions == before
    assert any(isinstance(action, Create) for action in before)
    world.settle()
    assert "exceeded quota" in world.said("Stalled")


# --- control


def patches(world: World) -> list[Any]:
    return [action.patch["spec"] for action in world.decide().actions if isinstance(action, Patch)]


def test_suspend_and_resume_are_told_once_and_restart_the_clock() -> None:
    world = World(job(activeDeadlineSeconds=600))
    world.planned()
    world.settle()
    started = world.status["startTime"]
    world.api.now += 300
    world.change(suspend=True)
    assert [each["suspend"] for each in patches(world)] == [True]
    assert [each.reason for each in world.settle()] == ["Suspended"]
    assert (patches(world), kstatus(world.raw)) == ([], "Current")
    world.api.now += 10_000
    assert world.api.perform(world.decide()) == 0, "a suspended job has no deadline"
    world.change(suspend=False)
    assert patches(world) == [{"suspend": False, "activeDeadlineSeconds": 600}]
    assert [each.reason for each in world.settle()] == ["Resumed"]
    assert world.status["startTime"] == rfc3339(world.api.now) != started
    assert world.true() == []


def test_a_job_that_starts_suspended_creates_no_job() -> None:
    world = World(job(suspend=True))
    world.settle()
    assert world.api.all(JOB) == []
    assert world.true() == ["Suspended"]
    assert "startTime" not in world.status
    world.change(suspend=False)
    world.settle()
    assert world.child("plan") is not None


def test_parallelism_changes_while_running_and_never_exceeds_the_shards() -> None:
    world = World()
    world.planned()
    world.change(parallelism=9)
    assert patches(world) == [{"parallelism": 3}]
    world.settle()
    assert patches(world) == []


def test_a_job_that_a_queue_suspends_is_left_alone_until_the_user_changes_something() -> None:
    raw = job()
    raw["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a"}
    world = World(raw)
    world.settle()
    plan = world.child("plan")
    assert plan is not None
    assert plan["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert plan["spec"]["suspend"] is True
    assert world.status["summary"]["reason"] == "AwaitingAdmission"
    world.api.put(JOB, plan | {"spec": plan["spec"] | {"suspend": False}})
    assert patches(world) == []
    world.settle()
    assert world.status["summary"]["reason"] == "Planning"
    world.change(suspend=True)
    assert patches(world) == [{"suspend": True}]


@pytest.mark.parametrize("end", ["Complete", "Failed"])
def test_a_finished_job_goes_after_its_time_to_live(end: str) -> None:
    world = World(job(ttlSecondsAfterFinished=60))
    if end == "Complete":
        world.planned()
        world.committed()
    else:
        fail_plan(world)
    decision = world.decide()
    assert decision.requeue_after_s is not None
    world.settle()
    world.api.now += 59
    assert world.decide().requeue_after_s == pytest.approx(1.0)
    world.api.now += 1
    world.api.perform(world.decide())
    assert world.api.all(INFERENCE_JOB) == []
    assert world.api.all(JOB) == []


def test_a_change_after_the_end_is_acknowledged_once() -> None:
    world = World()
    world.planned()
    world.committed()
    world.settle()
    world.change(parallelism=7)
    assert kstatus(world.raw) == "InProgress"
    assert world.api.perform(world.decide()) == 1
    assert kstatus(world.raw) == "Current"
    assert world.api.perform(world.decide()) == 0


@pytest.mark.parametrize(
    ("deadline", "status", "said"),
    [
        (None, "False", "NoDeadline"),
        (100_000, "False", "InTime"),
        (60, "True", "set spec.parallelism to 3 or more (with replicas of ocr to match)"),
        (31, "True", "raise spec.activeDeadlineSeconds, or give the models more replicas"),
    ],
)
def test_a_deadline_at_risk_says_what_would_mend_it(deadline: int | None, status: str, said: str) -> None:
    world = World(job(**({} if deadline is None else {"activeDeadlineSeconds": deadline})))
    world.planned()
    world.settle()
    pod = world.pod("run", "run-0", 0)
    world.api.now += 30
    world.hear(pod, runner(0, 10))
    world.settle()
    found = find(world.status["conditions"], "DeadlineAtRisk")
    assert found["status"] == status
    assert said in f"{found['reason']}: {found['message']}"


# --- properties


@effort(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_the_plan_settles_and_counts_stay_sound(data: st.DataObject) -> None:
    """Any order of runners' news, kills, suspensions and operator restarts: settles each time, counts within the
    total, and at the end Complete with zero writes."""
    world = World()
    world.planned()
    pods: dict[int, Any] = {}
    done: set[int] = set()
    counts: dict[int, int] = {}
    for step in range(data.draw(st.integers(1, 12))):
        shard = data.draw(st.integers(0, 2), label="shard")
        event = data.draw(st.sampled_from(["news", "kill", "finish", "restart", "toggle"]), label="event")
        world.api.now += 3
        if event == "restart":
            world.live.runners.clear()
        elif event == "toggle":
            world.change(suspend=not world.raw["spec"].get("suspend", False))
        elif shard in done:
            continue
        elif shard not in pods or event == "kill":
            if shard in pods:
                world.api.remove(POD, NAMESPACE, pods[shard]["metadata"]["name"])
            pods[shard], counts[shard] = world.pod("run", f"run-{shard}-{step}", shard), 0
        elif event == "news":
            counts[shard] = min(10 if shard < 2 else 5, counts[shard] + 3)
            world.hear(pods[shard], runner(shard, counts[shard]))
        else:
            world.end(pods.pop(shard), runner(shard, 10 if shard < 2 else 5, done=True))
            done.add(shard)
            world.tell("run", completedIndexes=",".join(map(str, sorted(done))))
        world.settle()
        items = world.status["items"]
        assert 0 <= items["succeeded"] + items["failed"] <= items["total"] == 25
    world.change(suspend=False)
    world.settle()
    world.committed()
    world.settle()
    world.api.now += 1000
    assert (world.true(), world.api.perform(world.decide())) == (["Complete"], 0)


def refused(world: World, *, age_s: float = 0.0, message: str = "exceeded quota: none") -> None:
    """The Job controller tells that a pod of the plan Job was refused."""
    child = world.child("plan")
    assert child is not None
    when = rfc3339(world.api.now - age_s)
    event = {
        "metadata": {"name": f"refused-{age_s}", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Job", "uid": child["metadata"]["uid"]},
        "reason": "FailedCreate",
        "message": f"Error creating: pods is forbidden: {message}",
        "firstTimestamp": when,
        "lastTimestamp": rfc3339(world.api.now),
    }
    world.api.put(CORE_EVENT, event)


def test_pods_that_are_refused_are_told_with_the_text_and_stall_only_after_a_while() -> None:
    world = World()
    world.settle()
    refused(world)
    world.settle()
    assert world.true() == ["Reconciling"]
    assert world.said("Reconciling") == (
        "PodsNotCreated: pods cannot be created: Error creating: pods is forbidden: exceeded quota: none; "
        "raise the ResourceQuota that it names, or ask for less"
    )
    assert kstatus(world.raw) == "InProgress"
    due = world.decide().requeue_after_s
    assert due is not None
    assert due <= 600.0
    world.api.now += 601
    refused(world, age_s=601)
    assert [each.reason for each in world.settle()] == ["PodsNotCreated"]
    assert world.true() == ["Stalled"]
    assert kstatus(world.raw) == "Failed"


def test_a_refusal_is_history_once_there_is_a_pod() -> None:
    world = World()
    world.settle()
    refused(world)
    world.settle()
    world.api.now += 5
    world.pod("plan", "plan-1")
    world.settle()
    assert world.said("Reconciling").startswith("Planning")
    assert world.true() == []


def test_a_refusal_wakes_the_job_that_it_is_about_and_no_other() -> None:
    world = World()
    world.settle()
    refused(world)
    [event] = world.api.all(CORE_EVENT)
    [watch] = [each for each in world.reconciler.watches() if each.resource == CORE_EVENT]
    assert list(watch.keys(event)) == [KEY]
    assert list(watch.keys({**event, "involvedObject": {"kind": "Job", "uid": "another"}})) == []


def test_an_upgrade_in_the_middle_of_a_job_leaves_its_later_steps_their_image() -> None:
    """Its commit read a plan of another version, and took it for damaged (tests/nodes/test_upgrade_under_load.py)."""
    world = World()
    world.planned()
    run = world.child("run")
    assert run is not None
    # A webhook put a container before ours.
    run["spec"]["template"]["spec"]["containers"].insert(0, {"name": "proxy", "image": "proxy:1"})
    world.reconciler = InferenceJobReconciler(Settings(worker_image="worker:2"), world.live)
    world.committed()
    commit = world.child("commit")
    assert commit is not None
    children = [each for each in (world.child("plan"), run, commit) if each is not None]
    containers = [each["spec"]["template"]["spec"]["containers"] for each in children]
    images = [each["image"] for of_one in containers for each in of_one if each["name"] == "runner"]
    assert len(images) == 3
    assert set(images) == {Settings().worker_image}
