"""Two real nodes of which one gets worse: replicas leave a node that others keep busy, one at a time and a new one
first; a node whose quota shrinks is found out; and one whose kubelet is silent is neither placed on nor missed.

Real: kubelets, containerd, cgroups, agents, the whole operator. The operator looks more often than by default.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import Cluster, ClusterSpec, NodeSpec
from e2e.cluster.machine import cgroups
from e2e.demo.kubectl import condition, wait_for
from tests.e2e.load import SteppedLoad
from tests.nodes.older_version import present
from tests.nodes.place import PATIENCE, PLACE, Place, model_deployment

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(2400)]

OFTEN = {
    "BATCHWRIGHT_PLACEMENT_WINDOW_SECONDS": "20",
    "BATCHWRIGHT_REBALANCE_WINDOW_SECONDS": "10",
    "BATCHWRIGHT_REBALANCE_COOLDOWN_SECONDS": "60",
    "BATCHWRIGHT_BENCHMARK_BUDGET_SECONDS_CPU": "20",
    "BATCHWRIGHT_SPOT_CHECK_SECONDS": "20",
}
NODES = ("left", "right")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Two equal nodes, benchmarked."""
    nodes = tuple(NodeSpec(name=name, cpus=0.75) for name in NODES)
    with Cluster.up(ClusterSpec(name=f"two-{os.getpid()}", nodes=nodes)) as cluster:
        place = Place(cluster)
        place.install(present(), **OFTEN)
        wait_for(
            lambda: True if all(capacity(place, name) for name in NODES) else None,
            what="both nodes measured", timeout_s=400 * PATIENCE,
            seen=lambda: str({name: processor(place, name) for name in NODES}),
        )  # fmt: skip
        place.data(1)
        yield place


def processor(place: Place, node: str) -> dict[str, Any]:
    profile = place.kubectl.find("acceleratorprofile", node) or {}
    found = [each for each in (profile.get("status") or {}).get("processors") or () if each["kind"] == "cpu"]
    return dict(found[0]) if found else {}


def capacity(place: Place, node: str) -> float:
    """Images/s as measured on this very node; 0 before."""
    found = processor(place, node)
    is_own = found.get("reason") in ("Benchmarked", "Degraded")
    return float(found.get("capacityImagesPerSecond") or 0) if is_own else 0.0


def pods(place: Place, name: str) -> list[dict[str, Any]]:
    return place.pods(f"app.kubernetes.io/component=model,batchwright.dev/deployment={name}")


def nodes_of(place: Place, name: str) -> Counter[str]:
    """Of those that are not on their way out."""
    here = [each for each in pods(place, name) if not each["metadata"].get("deletionTimestamp")]
    return Counter(str(each["spec"].get("nodeName") or "") for each in here)


@contextmanager
def deployed(place: Place, name: str, **spec: Any) -> Iterator[None]:
    raw = model_deployment(name)
    raw["spec"] |= spec
    place.apply(raw)
    try:
        place.await_condition("modeldeployment", name, "Ready", 240)
        yield
    finally:
        place.kubectl.run("delete", "modeldeployment", name, "-n", PLACE, "--timeout=120s", timeout_s=150)


def observed(look: Callable[[], Any], until: Callable[[Any], bool], *, within_s: float, then_s: float) -> list[Any]:
    """The distinct consecutive values until one is enough, and for some seconds more."""
    seen: list[Any] = []
    end = time.monotonic() + within_s * PATIENCE
    while time.monotonic() < end:
        value = look()
        if not seen or seen[-1] != value:
            seen.append(value)
        if until(value):
            end, until = min(end, time.monotonic() + then_s), lambda _: False
        time.sleep(0.5)
    return seen


def test_replicas_leave_a_crowded_node_one_at_a_time_a_new_one_first_and_then_rest(place: Place) -> None:
    """Two deployments of one replica each stand on a node that something else keeps busy."""
    names = ("one", "two")
    with deployed(place, "one", replicas=1, placement={"rebalance": "OnSustainedImbalance"}):
        (crowded,) = nodes_of(place, "one")
        other = next(name for name in NODES if name != crowded)
        place.kubectl.run("cordon", other)
        with deployed(place, "two", replicas=1, placement={"rebalance": "OnSustainedImbalance"}):
            place.kubectl.run("uncordon", other)
            addresses = [pod["status"]["podIP"] for name in names for pod in pods(place, name)]
            assert {each for name in names for each in nodes_of(place, name)} == {crowded}
            began = time.monotonic()
            with burners(place.cluster, crowded), SteppedLoad(f"http://{addresses[0]}:8000", "echo") as load:
                load.offer(2)
                seen = observed(
                    lambda: {name: dict(nodes_of(place, name)) for name in names},
                    lambda now: any(found == {other: 1} for found in now.values()),
                    within_s=240, then_s=30,
                )  # fmt: skip
                took = time.monotonic() - began
            print(f"one of {names} on {other}: {took:.0f} s; {json.dumps(seen)}")
            assert any(found == {other: 1} for found in seen[-1].values()), seen
            surges = [{name: sum(found.values()) for name, found in now.items()} for now in seen]
            assert all(sum(now.values()) <= 3 for now in surges), "two moves at once"
            assert all(now[name] >= 1 for now in surges for name in names), "one was away"
            quiet = observed(
                lambda: {name: dict(nodes_of(place, name)) for name in names}, lambda _: False, within_s=60, then_s=0
            )
            assert len(quiet) <= 3, "it goes on though nothing is crowded any more"


@contextmanager
def burners(cluster: Cluster, node: str) -> Iterator[None]:
    """Three, since one gets the node's quota only on a machine that has nothing else to do."""
    endless = ["python3", "-c", "while True: pass"]
    processes = [cluster.nodes[node].run_in_node(f"burner-{number}", endless) for number in range(3)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def slow_down(cluster: Cluster, node: str, share: float) -> None:
    """The node's CPU quota, as a share of what it was."""
    cgroups.limit_node(cluster.spec.name, node, share * cluster.nodes[node].spec.cpus)


def test_a_node_that_gets_slower_is_found_out_and_measured_anew(place: Place) -> None:
    before = capacity(place, "right")
    began = time.monotonic()
    for share in (0.8, 0.6, 0.45, 0.35):
        slow_down(place.cluster, "right", share)
        count = len(checks(place, "right"))
        wait_for(
            lambda count=count: True if len(checks(place, "right")) != count or degraded(place) else None,
            what=f"a check at {share}", timeout_s=120 * PATIENCE,
        )  # fmt: skip
        if degraded(place):
            break
    wait_for(lambda: degraded(place) or None, what="the drift noticed", timeout_s=300 * PATIENCE,
             seen=lambda: str(checks(place, "right")))  # fmt: skip
    print(f"degraded after {time.monotonic() - began:.0f} s: {before:.1f} -> {capacity(place, 'right'):.1f} images/s")
    assert capacity(place, "right") < 0.8 * before
    slow_down(place.cluster, "right", 1.0)


def checks(place: Place, node: str) -> list[Any]:
    return list(processor(place, node).get("spotChecks") or ())


def degraded(place: Place) -> bool:
    return condition(place.kubectl.find("acceleratorprofile", "right"), "Degraded").get("status") == "True"


def test_replicas_on_a_silent_node_serve_on_and_new_ones_go_elsewhere(place: Place) -> None:
    """Its kubelet stops for longer than the node controller waits."""
    with deployed(place, "served", replicas=2):
        assert set(nodes_of(place, "served")) == set(NODES)
        addresses = [pod["status"]["podIP"] for pod in pods(place, "served")]
        kubelet = kubelet_of(place.cluster, "left")
        with ExitStack() as stack:
            loads = [stack.enter_context(SteppedLoad(f"http://{each}:8000", "echo")) for each in addresses]
            for load in loads:
                load.offer(2)
            os.kill(kubelet, signal.SIGSTOP)
            try:
                wait_for(
                    lambda: None if ready(place, "left") else True, what="left is NotReady", timeout_s=120 * PATIENCE
                )
                with deployed(place, "late", replicas=1):
                    assert set(nodes_of(place, "late")) == {"right"}
                available = condition(place.get("modeldeployment", "served"), "Available")
            finally:
                os.kill(kubelet, signal.SIGCONT)
            wait_for(lambda: ready(place, "left") or None, what="left is Ready again", timeout_s=120 * PATIENCE)
            place.await_condition("modeldeployment", "served", "Ready", 240)
            answers = [answer for load in loads for answer in load.answers]
        print(f"{len(answers)} requests; while left was silent: Available={available}")
        assert {answer.status for answer in answers} == {200}


def ready(place: Place, node: str) -> bool:
    return condition(place.kubectl.find("node", node), "Ready").get("status") == "True"


def kubelet_of(cluster: Cluster, node: str) -> int:
    """The pid of a node's kubelet."""
    config = str(cluster.nodes[node].files.folder / "kubelet.yaml")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if "kubelet" in words[0] and any(config in word for word in words):
                return int(entry.name)
    raise AssertionError(f"no kubelet of {node}")
