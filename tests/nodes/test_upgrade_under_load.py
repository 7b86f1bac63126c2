"""An older version of the product is upgraded in the middle of its work, as docs/operator.md says: CRDs, rights,
operator and agents are applied while callers ask its replicas and a job runs. Nobody notices: no request fails, no
model pod and no runner is replaced or restarted, and the job's results are those of a job before.

Real: kubelets, containerd, images of both versions, the whole operator. The older version is that of before revisions
were kept (docs/design/0006).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.demo.kubectl import condition, wait_for
from tests.e2e.load import SteppedLoad
from tests.nodes.older_version import older, present
from tests.nodes.place import PATIENCE, Place, inference_job, model_deployment, records, unmeasured

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(2400)]

COMMIT = "bf7e9f1cd3545503dd2b9f9615f08093f73fa750"
ITEMS = 1800


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The older version serves, and a first job has run."""
    before = older(COMMIT, tmp_path_factory.mktemp("source"))
    with unmeasured("up") as place:
        place.install(before)
        place.load(present())
        yield place


def test_an_upgrade_under_load_goes_unnoticed(place: Place) -> None:
    folder = place.data(ITEMS)
    place.apply(model_deployment())
    place.await_condition("modeldeployment", "echo", "Ready", 240)
    place.apply(inference_job("first"))
    place.await_condition("inferencejob", "first", "Complete", 300)
    replicas = place.models()
    assert len(replicas) == 2
    addresses = [each["status"]["podIP"] for each in place.pods("app.kubernetes.io/component=model")]
    with ExitStack() as stack:
        loads = [stack.enter_context(SteppedLoad(f"http://{each}:8000", "echo")) for each in addresses]
        for load in loads:
            load.offer(5)
        place.apply(inference_job("second"))
        wait_for(lambda: place.progress("second") or None, what="the job under way", timeout_s=120 * PATIENCE)
        at_upgrade = place.progress("second")
        runners = {each["metadata"]["uid"] for each in place.pods("batchwright.dev/inferencejob=second")}
        # As docs/operator.md has it: an operator of before revisions were kept takes the defaults of the newer CRDs for
        # a change by the user, and replaces all pods if it lives to see them. (Seen when it did.)
        place.stop_operator()
        place.install(present())
        upgraded = time.monotonic()
        after = place.progress("second")
        place.await_condition("inferencejob", "second", "Complete", 300)
        left = upgraded + 20 - time.monotonic()
        time.sleep(max(0.0, left))  # at the latest now the new operator has looked at everything
        place.await_condition("modeldeployment", "echo", "Ready", 60)
        answers = [answer for load in loads for answer in load.answers]
    seen = {each["metadata"]["uid"] for each in place.pods("batchwright.dev/inferencejob=second")}
    print(f"{len(answers)} requests; the job went on from {at_upgrade} % to {after} % while the operator was replaced")
    assert after < 100, "the upgrade was to be in the middle of the job"
    assert {answer.status for answer in answers} == {200}
    assert place.models() == replicas, "model pods were replaced or restarted"
    assert runners <= seen, "a runner was deleted"
    assert len(records(folder / "second")) == ITEMS
    assert records(folder / "second") == records(folder / "first")


def test_targets_change_live_from_the_second_time_on(place: Place) -> None:
    """The pods of the older version cannot take a target over: the first change replaces them, and the next none."""
    for milliseconds, replaces in ((5000, True), (4000, False)):
        before = place.models()
        wanted = model_deployment()
        wanted["spec"]["models"][0]["targets"] = {"latencyMilliseconds": milliseconds}
        place.apply(wanted)
        generation = (place.get("modeldeployment", "echo") or {})["metadata"]["generation"]
        began = time.monotonic()

        def done(generation: int = generation) -> dict[str, Any] | None:
            found = place.get("modeldeployment", "echo") or {}
            status = found.get("status") or {}
            current = status.get("observedGeneration") == generation and status.get("configuredReplicas") == 2
            return found if current and condition(found, "Ready").get("status") == "True" else None

        wait_for(done, what="two replicas with the new target", timeout_s=240 * PATIENCE)
        print(f"a target of {milliseconds} ms: {time.monotonic() - began:.1f} s until the status says so")
        assert (place.models().keys() != before.keys()) is replaces
        assert replaces or place.models() == before
