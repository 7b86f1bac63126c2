"""The agent's CPU readings: which cgroup counts, against what, and that real files are read right."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from batchwright_worker.agent.cgroups import CgroupError, accounts, each_pod, node_root, pods_of
from batchwright_worker.agent.command import application, command
from batchwright_worker.agent.cpu import CpuSource, find_node
from batchwright_worker.agent.exposition import exposition

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cgroups", "root"),
    [
        ("4:memory:/fast/kubepods/burstable/pod1/abc\n2:cpuacct:/fast/kubepods/burstable/pod1/abc\n0::/\n", "/fast"),
        ("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-1.scope\n", "/"),
        ("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1.slice/x\n", "/kubelet.slice"),
        ("2:cpuacct:/docker/abc/kubepods/besteffort/pod1/c\n", "/docker/abc"),
        ("0::/\n", "/"),
        ("0::/user.slice/session-1.scope\n", "/"),
        ("", "/"),
    ],
    ids=["embedded node", "systemd", "kind with slices", "kind", "private namespace", "by hand", "unreadable"],
)
def test_root_of_the_node_is_above_its_pods(cgroups: str, root: str) -> None:
    assert node_root(cgroups) == root


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def version_1(sysfs: Path, *, quota: int) -> None:
    """A node cgroup /fast on a machine with version 1, controllers cpu and cpuacct mounted together."""
    write(sysfs / "cpu,cpuacct" / "fast", {
        "cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": "100000\n", "cpuacct.usage": "5000000000\n",
        "kubepods/cpuacct.usage": "2000000000\n", "kubepods/cpu.shares": "512\n",
        "kubepods/cpu.cfs_quota_us": "-1\n", "kubepods/cpu.cfs_period_us": "100000\n",
    })  # fmt: skip
    unlimited = "9223372036854771712\n"
    write(sysfs / "memory" / "fast", {
        "memory.usage_in_bytes": f"{3 * GIB}\n", "memory.limit_in_bytes": unlimited,
        "memory.stat": f"cache 1\ntotal_inactive_file {GIB}\n",
        "kubepods/memory.usage_in_bytes": f"{2 * GIB}\n", "kubepods/memory.limit_in_bytes": f"{4 * GIB}\n",
        "kubepods/memory.stat": f"total_inactive_file {GIB}\n",
    })  # fmt: skip


def version_2(sysfs: Path, *, quota: str) -> None:
    """The same with version 2."""
    write(sysfs, {
        "cgroup.controllers": "cpu memory\n",
        "fast/cpu.max": f"{quota} 100000\n", "fast/cpu.stat": "usage_usec 5000000\nuser_usec 1\n",
        "fast/memory.current": f"{3 * GIB}\n", "fast/memory.max": "max\n", "fast/memory.stat": f"inactive_file {GIB}\n",
        "fast/kubepods/cpu.stat": "usage_usec 2000000\n", "fast/kubepods/cpu.max": "max 100000\n",
        "fast/kubepods/memory.current": f"{2 * GIB}\n", "fast/kubepods/memory.max": f"{4 * GIB}\n",
        "fast/kubepods/memory.stat": f"inactive_file {GIB}\n",
    })  # fmt: skip


def proc(folder: Path) -> Path:
    write(folder, {
        "meminfo": f"MemTotal: {8 * GIB >> 10} kB\n", "stat": "cpu  1 2\ncpu0 1\ncpu1 1\nintr 1\n",
        "cpuinfo": "processor: 0\nmodel name\t: Zeta 9\n",
    })  # fmt: skip
    return folder


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("version", [1, 2])
def test_quota_of_the_node_counts_everything_in_it(version: int, tmp_path: Path) -> None:
    """0.5 cores of quota; 0.4 CPU seconds in 2 s, of which pods used none: 40 %."""
    if version == 1:
        version_1(tmp_path / "cg", quota=50_000)
        usage = (tmp_path / "cg/cpu,cpuacct/fast/cpuacct.usage", "5400000000")
    else:
        version_2(tmp_path / "cg", quota="50000")
        usage = (tmp_path / "cg/fast/cpu.stat", "usage_usec 5400000\n")
    node = find_node(tmp_path / "cg", proc(tmp_path / "proc"), root="/fast", allocatable_cores=None)
    assert node.cores == 0.5
    source, clock = _source(node)
    usage[0].write_text(usage[1])
    clock.now += 2.0
    (reading,) = source.read()
    assert reading.utilization == pytest.approx(0.4)
    assert reading.memory_utilization == pytest.approx(0.5)  # 3 - 1 GiB of the 4 that pods may use
    assert (reading.taken_at, reading.product, reading.memory_bytes) == (1002.0, "Zeta 9", 4 * GIB)


def _source(node: object) -> tuple[CpuSource, Clock]:
    clock = Clock()
    return CpuSource(node, clock), clock  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "allocatable", "cores"), [(1, None, 0.5), (1, 1.5, 1.5), (2, 1.5, 1.5), (2, None, 2.0)]
)
def test_without_a_quota_pods_count_over_what_they_may_use(
    version: int, allocatable: float | None, cores: float, tmp_path: Path
) -> None:
    """Version 1 tells allocatable by the pods' shares; else the option; else the machine's cores."""
    if version == 1:
        version_1(tmp_path / "cg", quota=-1)
        usage = (tmp_path / "cg/cpu,cpuacct/fast/kubepods/cpuacct.usage", "2500000000")
    else:
        version_2(tmp_path / "cg", quota="max")
        usage = (tmp_path / "cg/fast/kubepods/cpu.stat", "usage_usec 2500000\n")
    node = find_node(tmp_path / "cg", proc(tmp_path / "proc"), root="/fast", allocatable_cores=allocatable)
    assert (node.cores, node.counted.usage.name) == (cores, "kubepods")
    source, clock = _source(node)
    usage[0].write_text(usage[1])
    clock.now += 1.0
    (reading,) = source.read()
    assert reading.utilization == pytest.approx(0.5 / cores)


def test_two_scrapes_at_once_get_the_same_reading(tmp_path: Path) -> None:
    version_1(tmp_path, quota=100_000)
    source, clock = _source(find_node(tmp_path, proc(tmp_path / "proc"), root="/fast", allocatable_cores=None))
    assert source.read() == []
    clock.now += 1.5
    first = source.read()
    clock.now += 0.2
    assert source.read() == first != []


def test_unreadable_accounts_are_no_reading(tmp_path: Path) -> None:
    version_1(tmp_path, quota=100_000)
    source, clock = _source(find_node(tmp_path, proc(tmp_path / "proc"), root="/fast", allocatable_cores=None))
    (tmp_path / "cpu,cpuacct/fast/cpuacct.usage").unlink()
    clock.now += 2
    assert source.read() == []


@pytest.mark.parametrize(("sysfs", "root"), [("nowhere", "/"), (".", "/missing")])
def test_wrong_mounts_say_what_to_mount(sysfs: str, root: str, tmp_path: Path) -> None:
    version_1(tmp_path, quota=-1)
    with pytest.raises(CgroupError, match=r"mount|cgroup-root"):
        accounts(tmp_path / sysfs, root)
    done = CliRunner().invoke(command, ["--sysfs", str(tmp_path / sysfs), "--cgroup-root", root])
    assert done.exit_code == 1
    assert "Error: " in done.output


def test_pods_are_found_below_a_slice_of_kubelets(tmp_path: Path) -> None:
    write(tmp_path, {"cgroup.controllers": "", "kubelet.slice/kubelet-kubepods.slice/cpu.stat": "usage_usec 1\n"})
    pods = pods_of(accounts(tmp_path, "/"))
    assert pods is not None
    assert pods.usage == tmp_path / "kubelet.slice/kubelet-kubepods.slice"


@pytest.mark.skipif(not Path("/sys/fs/cgroup").is_dir(), reason="needs Linux's cgroups")
async def test_real_cgroups_over_http() -> None:
    """This machine's own accounts: what we burn is in the reading."""
    node = find_node(Path("/sys/fs/cgroup"), Path("/proc"), root=None, allocatable_cores=None)
    source = CpuSource(node)
    end = time.monotonic() + 1.1
    while time.monotonic() < end:
        sum(range(10_000))
    async with TestClient(TestServer(application(exposition("me", [source])))) as client:
        answer = await client.get("/metrics")
        families = {each.name: each for each in text_string_to_metric_families(await answer.text())}
    (busy,) = families["batchwright_processor_utilization_ratio"].samples
    assert busy.labels == {"node": "me", "kind": "cpu", "device": "cpu"}
    assert 0.5 / (os.cpu_count() or 1) < busy.value <= 1
    (memory,) = families["batchwright_processor_memory_utilization_ratio"].samples
    assert 0 < memory.value < 1
    (taken,) = families["batchwright_processor_sample_timestamp_seconds"].samples
    assert abs(taken.value - time.time()) < 30
    (info,) = families["batchwright_device_info"].samples
    assert int(info.labels["memory_bytes"]) == node.memory_bytes


def test_each_pod_and_those_that_ended_are_told_apart(tmp_path: Path) -> None:
    """Half a core for 4 s: 2 CPU seconds. One pod used 0.5, one that has ended 0.8, nobody's pod 0.3."""
    version_1(tmp_path / "cg", quota=50_000)
    cpu = tmp_path / "cg/cpu,cpuacct/fast"
    stays = "kubepods/burstable/pod0d5b5c5e-1111-2222-3333-444455556666"
    ends = "kubepods/pod0d5b5c5e-1111-2222-3333-444455557777"
    for pod in (stays, ends):
        write(cpu, {f"{pod}/cpuacct.usage": "100000000\n"})
        write(tmp_path / "cg/memory/fast", {
            f"{pod}/memory.usage_in_bytes": f"{GIB}\n", f"{pod}/memory.stat": "total_inactive_file 0\n"
        })  # fmt: skip
    node = find_node(tmp_path / "cg", proc(tmp_path / "proc"), root="/fast", allocatable_cores=None)
    source, clock = _source(node)
    shutil.rmtree(cpu / ends)
    write(cpu, {
        "cpuacct.usage": "6600000000\n", "kubepods/cpuacct.usage": "3300000000\n",
        f"{stays}/cpuacct.usage": "600000000\n",
    })  # fmt: skip
    clock.now += 4.0
    (reading,) = source.read()
    assert reading.utilization == pytest.approx(0.8)
    assert reading.pods is not None
    assert {uid[-4:]: each.utilization for uid, each in reading.pods.items()} == pytest.approx({"": 0.4, "6666": 0.25})
    assert reading.pods["0d5b5c5e-1111-2222-3333-444455556666"].memory_utilization == pytest.approx(0.25)


@pytest.mark.parametrize(
    "folder",
    [
        "kubepods/besteffort/pod0d5b5c5e-1111-2222-3333-444455556666",
        "kubepods/pod0d5b5c5e-1111-2222-3333-444455556666",
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0d5b5c5e_1111_2222_3333_444455556666.slice",
        "kubepods.slice/kubepods-pod0d5b5c5e_1111_2222_3333_444455556666.slice",
    ],
)
def test_pods_are_found_by_their_uid_under_both_drivers(folder: str, tmp_path: Path) -> None:
    write(tmp_path / "cg", {"cgroup.controllers": "cpu\n", f"{folder}/cpu.stat": "usage_usec 5\n"})
    pods = pods_of(accounts(tmp_path / "cg", "/"))
    assert pods is not None
    assert [uid for uid, _ in each_pod(pods)] == ["0d5b5c5e-1111-2222-3333-444455556666"]
