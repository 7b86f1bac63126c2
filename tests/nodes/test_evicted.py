"""A node that is silent for ten minutes: Kubernetes evicts its replicas, they are placed elsewhere and stay there, what
serves goes on serving, and the node takes new ones when it is back.

Real: kubelets, containerd, node controller, taint eviction. The replicas put up with the node for 20 s instead of the
usual 300, by their own tolerations.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from e2e.cluster import Cluster, ClusterSpec, NodeSpec
from e2e.demo.kubectl import wait_for
from tests.e2e.load import LONGEST_S, Answer, SteppedLoad
from tests.nodes.older_version import present
from tests.nodes.place import PATIENCE, PLACE, SYSTEM, Place, restarts
from tests.nodes.test_two_nodes import NODES, deployed, kubelet_of, nodes_of, pods, ready

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(2400)]

SILENT_S = float(os.environ.get("BATCHWRIGHT_SILENT_SECONDS", "600"))
PATIENT = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 20}
    for key in ("not-ready", "unreachable")
]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Two equal nodes, placed on by utilization alone."""
    nodes = tuple(NodeSpec(name=name, cpus=0.75) for name in NODES)
    with Cluster.up(ClusterSpec(name=f"silent-{os.getpid()}", nodes=nodes)) as cluster:
        place = Place(cluster)
        place.install(present(), BATCHWRIGHT_BENCHMARK_KINDS="[]")
        place.data(1)
        yield place


@contextmanager
def asked(address: str) -> Iterator[list[Answer]]:
    """Two requests a second meanwhile."""
    with SteppedLoad(f"http://{address}:8000", "echo") as load:
        load.offer(2)
        yield load.answers


def present_pods(place: Place) -> dict[str, dict[str, Any]]:
    """Name -> pod, of those that are not on their way out."""
    found = pods(place, "served")
    return {each["metadata"]["name"]: each for each in found if not each["metadata"].get("deletionTimestamp")}


def test_replicas_of_a_silent_node_are_evicted_placed_elsewhere_and_the_node_is_used_again(place: Place) -> None:
    found = place.kubectl.json("get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator")["items"]
    (other,) = {each["spec"]["nodeName"] for each in found if not each["metadata"].get("deletionTimestamp")}
    (silent,) = set(NODES) - {other}
    with deployed(place, "served", replicas=2, placement={"tolerations": PATIENT}):
        assert nodes_of(place, "served") == {silent: 1, other: 1}
        (lost,) = [name for name, pod in present_pods(place).items() if pod["spec"]["nodeName"] == silent]
        (kept,) = set(present_pods(place)) - {lost}
        address = present_pods(place)[kept]["status"]["podIP"]
        with stopped(kubelet_of(place.cluster, silent)) as wake:
            began = time.monotonic()
            with asked(address) as answers:
                until(lambda: not ready(place, silent), f"{silent} is NotReady")
                not_ready_s = time.monotonic() - began
                until(lambda: lost not in present_pods(place), "its replica is evicted")
                evicted_s = time.monotonic() - began
                until(lambda: nodes_of(place, "served") == {other: 2}, "another one is placed")
                place.await_condition("modeldeployment", "served", "Ready", 240)
                replaced_s = time.monotonic() - began
            assert {each.status for each in answers} == {200}
            after = set(present_pods(place))
            assert kept in after
            while (left_s := began + SILENT_S - time.monotonic()) > 0:  # nothing else is done about it meanwhile
                with asked(address) as answers:
                    time.sleep(min(left_s, LONGEST_S / 2))
                assert {each.status for each in answers} == {200}
                assert set(present_pods(place)) == after
            silent_s = time.monotonic() - began
            with asked(address) as answers:
                wake()
                until(lambda: ready(place, silent), f"{silent} is Ready again")
                until(lambda: len(pods(place, "served")) == 2, "the evicted replica is gone")
                back_s = time.monotonic() - began - silent_s
                assert set(present_pods(place)) == after, "nobody moves because a node came back"
                place.kubectl.run("scale", "modeldeployment", "served", "-n", PLACE, "--replicas=3")
                until(lambda: nodes_of(place, "served") == {other: 2, silent: 1}, f"{silent} takes the third")
                place.await_condition("modeldeployment", "served", "Ready", 240)
            assert {each.status for each in answers} == {200}
        assert restarts(present_pods(place)[kept]) == (0,) * len(restarts(present_pods(place)[kept]))
        print(
            f"NotReady after {not_ready_s:.0f} s, evicted after {evicted_s:.0f}, replaced and Ready after "
            f"{replaced_s:.0f}; silent for {silent_s:.0f} s; Ready and cleared {back_s:.0f} s after it woke"
        )


@contextmanager
def stopped(pid: int) -> Iterator[Callable[[], None]]:
    """A process that does nothing until it is woken, by the function that this gives or at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


def until(met: Callable[[], bool], what: str) -> None:
    wait_for(lambda: met() or None, what=what, timeout_s=180 * PATIENCE)
