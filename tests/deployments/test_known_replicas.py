"""What is remembered of pods is what reading them again would give, whatever came in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.deployments import known_replicas
from batchwright_operator.deployments.known_replicas import KnownReplicas
from batchwright_operator.deployments.replicas import PendingTimeouts, Replica, replica
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_worker.api.messages import SidecarState
from tests.deployments.deployment_objects import model_state, state
from tests.placement import placement_objects

NOW = placement_objects.NOW


def pod(name: str, *, age_s: float, phase: str) -> Raw:
    """A pod in one of the phases of its life; `age_s` is how long it has been in it."""
    raw = placement_objects.pod(name, age_s=age_s)
    at = rfc3339(NOW - age_s)
    prepared = "False" if phase == "Volumes" else "True"
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at},
        {"type": "PodReadyToStartContainers", "status": prepared, "lastTransitionTime": at},
        {"type": "Ready", "status": "True" if phase == "Ready" else "False", "lastTransitionTime": at},
    ]
    match phase:
        case "Gated":
            return raw
        case "Unschedulable":
            return placement_objects.unschedulable({**raw, "spec": {**raw["spec"], "schedulingGates": []}})
        case _:
            return {**raw, "spec": {**raw["spec"], "nodeName": "n"}, "status": {"conditions": conditions}}


PODS = st.builds(
    pod,
    st.sampled_from(["a", "b", "c"]),
    age_s=st.sampled_from([0.0, 25.0, 55.0, 500.0]),
    phase=st.sampled_from(["Gated", "Unschedulable", "Volumes", "Starting", "Ready"]),
)
STATES = st.sampled_from(
    [None, state(), state(model_state(state="Failed", message="no file")), state(model_state(state="Loading"))]
)


@given(st.lists(st.tuples(PODS, STATES, st.sampled_from([-40.0, 0.0, 1.0, 10.0, 40.0])), min_size=1, max_size=12))
def test_remembered_replicas_are_as_read_anew(changes: list[tuple[Raw, SidecarState | None, float]]) -> None:
    known, now = KnownReplicas(), NOW
    there: dict[str, tuple[Raw, SidecarState | None]] = {}
    for raw, said, passed_s in changes:
        now += passed_s
        name = raw["metadata"]["name"]
        there[name] = (there[name][0] if said is not None and name in there else raw, said)
        timeouts = PendingTimeouts(now=now, no_fit_s=30.0)
        for _ in range(2):
            before, kept = known, known.replicas
            known = known.after(there.values(), timeouts)
            assert known.replicas == tuple(replica(*each, timeouts) for each in there.values())
            assert before.replicas == kept, "what an earlier pass read is a value"


def test_a_pod_that_did_not_change_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its sidecar's next numbers are a reason."""
    read: list[str] = []

    def reading(raw: Raw, said: SidecarState | None, timeouts: PendingTimeouts) -> Replica:
        read.append(raw["metadata"]["name"])
        return replica(raw, said, timeouts)

    monkeypatch.setattr(known_replicas, "replica", reading)
    known, pods = KnownReplicas(), [pod(name, age_s=5.0, phase="Ready") for name in "abc"]
    for number in range(5):
        timeouts = PendingTimeouts(now=NOW + number, no_fit_s=3)
        known = known.after([(raw, state(revision=number)) for raw in pods], timeouts)
        assert [each.state.revision for each in known.replicas if each.state] == [number] * 3
    known = known.after([(pod("b", age_s=4.0, phase="Ready"), None)], PendingTimeouts(now=NOW + 9, no_fit_s=3))
    assert [each.name for each in known.replicas] == ["b"], "those that are gone are forgotten"
    assert read == ["a", "b", "c", "b"]
