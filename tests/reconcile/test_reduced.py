"""What the cache keeps of pods and nodes: of others what they request and where, of ours everything."""

from __future__ import annotations

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.kube.objects import DEPLOYMENT, MODEL_DEPLOYMENT, NODE, POD, PVC, Raw
from batchwright_operator.kube.quantities import requests_of
from batchwright_operator.pods.lifecycle import is_over
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.reconcile.reduced import PodDecoder, decoder_of
from tests.house.commands import ROOT
from tests.placement.placement_objects import node, pod

amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), st.sampled_from(["100m", "2", "1Gi", 3]), max_size=3
)
resources = st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts})
containers = st.lists(
    st.fixed_dictionaries({"name": st.just("c"), "image": st.just("i")}, optional={"resources": resources}),
    min_size=1,
    max_size=3,
)
init = st.lists(
    st.fixed_dictionaries(
        {"name": st.just("i")}, optional={"resources": resources, "restartPolicy": st.just("Always")}
    ),
    max_size=3,
)
specs = st.fixed_dictionaries(
    {"containers": containers},
    optional={
        "initContainers": init,
        "overhead": amounts,
        "resources": resources,
        "nodeName": st.just("n"),
        "restartPolicy": st.sampled_from(["Always", "Never"]),
    },
)


def foreign(spec: Raw, **metadata: object) -> Raw:
    head = {"name": "p", "namespace": "other", "uid": "u", "resourceVersion": "9", "labels": {"app": "x"}, **metadata}
    return {"metadata": head, "spec": spec, "status": {"phase": "Running", "startTime": "2026-11-30T00:00:00Z"}}


@given(specs)
def test_the_scheduler_counts_for_a_reduced_pod_what_it_counts_for_the_whole(spec: Raw) -> None:
    reduced = PodDecoder()(msgspec.json.encode(foreign(spec)))
    assert requests_of(reduced["spec"]) == requests_of(spec)
    assert reduced["spec"].get("nodeName") == spec.get("nodeName")
    assert reduced["spec"].get("restartPolicy", "Always") == spec.get("restartPolicy", "Always")


def test_of_others_nothing_is_kept_that_nobody_needs() -> None:
    spec = {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "x" * 1000}]}], "nodeName": "n"}
    raw = foreign(spec, annotations={"a": "x" * 1000}, deletionTimestamp="2026-11-30T00:00:00Z")
    reduced = PodDecoder()(msgspec.json.encode(raw))
    assert reduced == {
        "metadata": {
            "name": "p", "namespace": "other", "uid": "u", "resourceVersion": "9",
            "deletionTimestamp": "2026-11-30T00:00:00Z",
        },
        "spec": {"containers": [{"resources": {"requests": {}}}], "nodeName": "n"},
        "status": {"phase": "Running"},
    }  # fmt: skip


def test_equal_parts_of_pods_of_others_are_one_object() -> None:
    decode, spec = PodDecoder(), {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}
    one, another = (decode(msgspec.json.encode(foreign(spec, name=name))) for name in "ab")
    assert one["spec"]["containers"] is another["spec"]["containers"]
    assert one["status"] is another["status"]


def test_pods_that_end_by_themselves_say_since_when_they_run() -> None:
    reduced = PodDecoder()(msgspec.json.encode(foreign({"containers": [{"name": "c"}], "restartPolicy": "Never"})))
    assert reduced["status"] == {"phase": "Running", "startTime": "2026-11-30T00:00:00Z"}


def test_one_that_is_over_is_still_seen_to_be() -> None:
    raw = foreign({"containers": [{"name": "c"}]})
    assert is_over(PodDecoder()(msgspec.json.encode({**raw, "status": {"phase": "Succeeded"}})))


def test_our_own_are_whole_but_for_the_accounts_of_who_wrote_what() -> None:
    raw = pod("a", priority=3, nodeName=None, volumes=[{"name": "tmp", "emptyDir": {}}])
    raw["status"] = {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}
    accounts = {"managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}]}
    given = {"apiVersion": "v1", "kind": "Pod", **raw, "metadata": {**raw["metadata"], **accounts}}
    for text in (msgspec.json.encode(given), msgspec.json.format(msgspec.json.encode(given))):
        assert PodDecoder()(text) == {"apiVersion": "v1", "kind": "Pod", **raw}


def test_what_replicas_have_in_common_is_one_object() -> None:
    decode = PodDecoder()
    one, another = (decode(msgspec.json.encode(pod(name))) for name in "ab")
    other = decode(msgspec.json.encode(pod("c", cpu="200m")))
    assert one["spec"]["containers"] is another["spec"]["containers"]
    assert one["metadata"]["labels"] is another["metadata"]["labels"]
    assert one["metadata"]["name"] != another["metadata"]["name"]
    assert other == pod("c", cpu="200m")


def test_a_pod_that_only_mentions_us_is_not_ours() -> None:
    raw = foreign({"containers": []}, annotations={"batchwright.dev/kind": "cpu", "component": "agent"})
    assert PodDecoder()(msgspec.json.encode(raw))["metadata"].keys() == {"name", "namespace", "uid", "resourceVersion"}


def test_the_agents_of_the_manifests_are_whole() -> None:
    """They are asked for samples at the address that their status tells."""
    documents = yaml.safe_load_all((ROOT / "manifests" / "base" / "agent.yaml").read_text())
    (template,) = (each["spec"]["template"] for each in documents if each["kind"] == "DaemonSet")
    agent = foreign({"containers": []}, labels=template["metadata"]["labels"])
    agent["status"]["podIP"] = "10.0.0.7"
    assert PodDecoder()(msgspec.json.encode(agent)) == agent


def test_a_node_is_kept_without_its_images() -> None:
    raw = node("n")
    raw["status"] |= {"images": [{"names": ["x" * 100]}] * 50, "nodeInfo": {"machineID": "m"}}
    decode = decoder_of(NODE)
    assert decode is not None
    kept = decode(msgspec.json.encode(raw))
    assert "images" not in kept["status"]
    assert kept["status"]["nodeInfo"] == {"machineID": "m"}
    assert node_info(kept) == node_info(raw)


def test_other_resources_are_kept_as_they_are() -> None:
    assert decoder_of(POD) is not None
    assert [decoder_of(each) for each in (MODEL_DEPLOYMENT, PVC, DEPLOYMENT)] == [None] * 3
