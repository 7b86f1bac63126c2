"""Nothing stays behind, whatever happened before `down`."""

import os
import shutil
import signal
from collections.abc import Callable

import pytest

from e2e.cluster import Cluster, ClusterError, ClusterSpec, NodeSpec, NotFoundError, teardown
from e2e.cluster.machine import cgroups, footprint
from e2e.cluster.machine.waiting import wait_until
from e2e.cluster.testing import kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


@pytest.fixture
def name() -> str:
    return f"gone-{os.getpid()}"


def spec_of(name: str) -> ClusterSpec:
    return ClusterSpec(name=name, nodes=(NodeSpec(name="only", cpus=0.5),), volumes=1)


def start(name: str) -> Cluster:
    """A cluster whose one node has a sandbox, so that there are pod namespaces, links and mounts to leave behind."""
    cluster = Cluster.up(spec_of(name))
    kubectl(cluster.kubeconfig, "run", "pod", "--image=localhost/batchwright/pause:1", "--image-pull-policy=Never")
    kubectl(cluster.kubeconfig, "wait", "--for=condition=Ready", "pod/pod", "--timeout=60s")
    return cluster


def kill_everything(cluster: Cluster) -> None:
    for pid in cgroups.members(cluster.spec.name):
        if os.path.exists(f"/proc/{pid}"):  # noqa: PTH110
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def lose_the_records(cluster: Cluster) -> None:
    shutil.rmtree(cluster.folder, ignore_errors=True)  # what still runs may write there meanwhile


def kill_the_control_plane(cluster: Cluster) -> None:
    for process in cluster.control_plane.processes.values():
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "mishaps",
    [(), (kill_everything,), (lose_the_records,), (kill_the_control_plane, lose_the_records)],
    ids=["none", "all-killed", "records-lost", "half-killed-records-lost"],
)
def test_down_leaves_nothing_behind(name: str, mishaps: tuple[Callable[[Cluster], None], ...]) -> None:
    before = footprint.machine()
    cluster = start(name)
    with footprint.held_namespaces(cgroups.members(name)) as namespaces:
        assert len(namespaces) >= 3
        for mishap in mishaps:
            mishap(cluster)
        teardown.remove_cluster(name)
        assert not namespaces & footprint.inhabited_namespaces()
    assert wait_until(lambda: not footprint.difference(before, footprint.machine(), name), timeout_s=60), before
    assert not footprint.processes_of(cluster.folder)
    assert not cluster.folder.exists()
    assert name not in teardown.known_clusters()


def test_a_second_up_finds_the_first_and_a_broken_one_is_replaced(name: str) -> None:
    with start(name) as first:
        processes = first.control_plane.processes
        assert Cluster.up(spec_of(name)).control_plane.processes == processes
        with pytest.raises(ClusterError, match="take it down first"):
            Cluster.up(ClusterSpec(name=name))
        kill_the_control_plane(first)
        second = Cluster.up(spec_of(name))
        assert second.alive
        assert second.control_plane.processes != processes


def test_two_clusters_live_side_by_side(name: str) -> None:
    with Cluster.up(spec_of(f"{name}-a")) as left:
        with Cluster.up(spec_of(f"{name}-b")) as right:
            assert left.network.block != right.network.block
        assert left.alive
        with pytest.raises(NotFoundError):
            Cluster.attach(f"{name}-b")
