"""Names of children meet those of no other object, however the objects are called; and what was named otherwise before
0.1.0."""

from __future__ import annotations

from itertools import combinations

from hypothesis import example, given
from hypothesis import strategies as st

from batchwright_operator.deployments.children import old_headless_name
from batchwright_operator.kube.objects import (
    DEPLOYMENT,
    INFERENCE_JOB,
    JOB,
    MODEL_DEPLOYMENT,
    NETWORK_POLICY,
    SECRET,
    SERVICE,
    Raw,
)
from batchwright_operator.reconcile.decisions import Apply, Delete
from batchwright_worker.api.names import child_name
from tests.deployments.deployment_objects import EMULATED, NAMESPACE, deployment, emulated, model
from tests.deployments.test_deployment_decisions import World
from tests.deployments.test_rendering import children
from tests.jobs.job_objects import World as JobWorld
from tests.jobs.job_objects import job
from tests.jobs.test_job_rendering import children as job_children

ENDS = ("control", "replicas", "runners", "config", "job", "job-control", "job-token", "token", "plan", "run", "commit")
names = st.builds(
    lambda stem, ends: "-".join([stem, *ends])[:63].rstrip("-"),
    st.sampled_from(["a", "a-a", "n" * 54, "n" * 60, "n" * 63]),
    st.lists(st.sampled_from([*ENDS, "cpu"]), max_size=3),
)


def made(kind: str, name: str) -> set[tuple[str, str]]:
    """Kind and name of every child of an object."""
    raw = deployment(name, models=[model("m", emulated("cpu"))]) if kind == "ModelDeployment" else job(name)
    bodies = children(raw) if kind == "ModelDeployment" else job_children(raw)
    found = [(each["kind"], each["metadata"]["name"]) for each in bodies]
    assert len(found) == len(set(found))
    return set(found)


owners = st.tuples(st.sampled_from(["ModelDeployment", "InferenceJob"]), names)


@given(found=st.lists(owners, min_size=2, max_size=4, unique=True))
@example(found=[("ModelDeployment", "pair"), ("ModelDeployment", "pair-replicas")])
@example(found=[("ModelDeployment", "x-job"), ("InferenceJob", "x")])
@example(found=[("ModelDeployment", "x-runners"), ("InferenceJob", "x")])
@example(found=[("ModelDeployment", "x"), ("InferenceJob", "x")])
@example(found=[("InferenceJob", "x"), ("InferenceJob", "x-plan")])
def test_no_two_objects_have_children_of_one_name(found: list[tuple[str, str]]) -> None:
    for one, other in combinations(found, 2):
        assert not made(*one) & made(*other)


def test_kinds_whose_children_would_have_one_name_are_not_used_together() -> None:
    raw = deployment(models=[model("m", emulated("example.com/a.b"), emulated("example.com/a-b"))], replicas=4)
    world = World(raw)
    deployments = [each for each in children(raw) if each["kind"] == "Deployment"]
    assert [each["metadata"]["annotations"]["batchwright.dev/accelerator-kind"] for each in deployments] == [
        "example.com/a.b"
    ]
    world.settle()
    assert [each["spec"]["replicas"] for each in world.api.all(DEPLOYMENT)] == [4]


# --- objects from before 0.1.0


def old_headless(world: World) -> Raw:
    """The headless Service under its old name."""
    owner = world.raw
    reference = {name: owner[name] for name in ("apiVersion", "kind")}
    reference |= {"name": "ocr", "uid": owner["metadata"]["uid"], "controller": True}
    head = {"name": old_headless_name("ocr"), "namespace": NAMESPACE, "ownerReferences": [reference]}
    return world.api.put(SERVICE, {"metadata": head, "spec": {"clusterIP": "None"}})


def services(world: World) -> list[str]:
    return sorted(each["metadata"]["name"] for each in world.api.all(SERVICE))


def test_a_new_deployment_has_no_service_of_the_old_name() -> None:
    world = World()
    world.settle()
    [plain, headless] = services(world)
    assert (plain, headless[:13]) == ("ocr", "ocr-replicas-")


def test_the_old_headless_service_serves_on_until_a_deployment_has_its_name() -> None:
    world = World()
    old_headless(world)
    world.settle()
    assert "ocr-replicas" in services(world)
    world.api.put(MODEL_DEPLOYMENT, deployment("ocr-replicas", models=[model("m", emulated(EMULATED))]))
    observed = world.reconciler.observe(world.api, next(iter(_woken(world))))
    assert observed is not None
    world.api.perform(world.reconciler.decide(observed, world.api.now))
    assert "ocr-replicas" not in services(world)


def _woken(world: World) -> set[object]:
    """The keys that the new deployment wakes, itself aside."""
    raw = world.api.get(MODEL_DEPLOYMENT, NAMESPACE, "ocr-replicas")
    assert raw is not None
    watches = [each for each in world.reconciler.watches() if each.resource == MODEL_DEPLOYMENT]
    keys = {key for each in watches for key in each.keys(raw)}
    return {key for key in keys if key.name != "ocr-replicas"}


def test_a_job_that_mounts_the_old_secret_keeps_it_and_loses_the_old_policy() -> None:
    world = JobWorld()
    world.settle()
    plan = world.api.get(JOB, NAMESPACE, "pages-plan")
    assert plan is not None
    volumes = plan["spec"]["template"]["spec"]["volumes"]
    [control] = [each for each in volumes if each["name"] == "control"]
    assert control["secret"]["secretName"] == "pages-job-token"
    control["secret"]["secretName"] = "pages-job-control"
    world.api.put(JOB, plan)
    owner = world.raw["metadata"]
    reference = {"kind": INFERENCE_JOB.kind, "name": "pages", "uid": owner["uid"], "controller": True}
    head = {"name": child_name("pages", "runners"), "namespace": NAMESPACE, "ownerReferences": [reference]}
    world.api.put(NETWORK_POLICY, {"metadata": head, "spec": {}})
    actions = world.decide().actions
    applied = [each.body["metadata"]["name"] for each in actions if isinstance(each, Apply) and each.resource == SECRET]
    deleted = [each.name for each in actions if isinstance(each, Delete)]
    assert applied == ["pages-job-token", "pages-job-control"]
    assert deleted == ["pages-runners"]
    world.settle()
    assert not [each for each in world.decide().actions if isinstance(each, Delete)]
