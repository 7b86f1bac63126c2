"""What needs no cluster: values, records, archives, command line."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from e2e.cluster import ClusterError, ClusterSpec, NodeSpec, NotFoundError
from e2e.cluster.build import components, oci
from e2e.cluster.cli import main
from e2e.cluster.control_plane import audit
from e2e.cluster.machine import network, processes


@pytest.mark.parametrize("name", ["", "Fast", "-a", "a_b", "system", "x" * 33])
def test_a_name_that_kubernetes_or_the_kernel_refuses_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="cannot name"):
        NodeSpec(name=name)


def test_two_nodes_of_one_name_are_refused() -> None:
    with pytest.raises(ClusterError, match="name each node once"):
        ClusterSpec(nodes=(NodeSpec(name="a"), NodeSpec(name="a")))


def test_interface_names_fit_the_kernel() -> None:
    assert len(f"{network.bridge_name('x' * 32)}n59") <= 15


def test_a_network_avoids_what_is_taken() -> None:
    first = network.choose("a").block
    assert network.choose("a", taken=range(100, first + 1)).block > first


def test_addresses_of_nodes_and_pods_do_not_meet() -> None:
    net = network.Network(cluster="a", block=100)
    assert (net.node_address(1), net.node_pod_cidr(1)) == ("10.100.0.12", "10.100.65.0/24")


def test_the_pause_archive_names_its_image() -> None:
    assert oci.image_of(oci.pause_archive()).name == oci.PAUSE_IMAGE


def test_a_file_that_is_no_archive_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    file.write_text("no")
    with pytest.raises(NotFoundError, match="oci-archive"):
        oci.image_of(file)


def test_the_audit_log_is_read_by_user_and_up_to_its_last_whole_line(tmp_path: Path) -> None:
    event = {
        "requestReceivedTimestamp": "2026-11-22T10:00:00.000001Z",
        "user": {"username": "a"},
        "verb": "patch",
        "objectRef": {"resource": "pods", "subresource": "status", "namespace": "n", "name": "p"},
        "responseStatus": {"code": 200},
        "userAgent": "kopf",
    }
    other = {**event, "user": {"username": "b"}}
    log = tmp_path / "audit.log"
    log.write_text(f"{json.dumps(event)}\n{json.dumps(other)}\n{json.dumps(event)[:40]}")
    (write,) = audit.writes(log, user="a", user_agent="kopf")
    assert (write.resource, write.namespace, write.name, write.status) == ("pods/status", "n", "p", 200)


def test_a_process_is_known_by_its_start_time(tmp_path: Path) -> None:
    process = processes.spawn("sleeper", ["/bin/sleep", "60"], folder=tmp_path)
    (recorded,) = processes.recorded(tmp_path)
    assert recorded == process
    assert process.alive
    other = processes.Process(name="other", pid=process.pid, started=process.started - 1, log="")
    processes.stop([other])
    assert process.alive
    processes.stop([process])
    assert not process.alive


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; while :; do sleep 0.1; done"
    process = processes.spawn("stubborn", ["/bin/sh", "-c", script], folder=tmp_path)
    time.sleep(0.1)
    processes.stop([process], grace_s=0.2)
    assert not process.alive


def test_a_component_is_rebuilt_when_its_flags_change() -> None:
    kubernetes = components.CATALOGUE["kubernetes"]
    changed = replace(kubernetes, tags="other")
    assert changed.folder != kubernetes.folder


def test_bad_arguments_are_told_with_the_remedy() -> None:
    answer = CliRunner().invoke(main, ["up", "--node", "fast"])
    assert answer.exit_code == 2
    assert "'fast' is not NAME=NUMBER" in answer.output


def test_an_unknown_cluster_is_told_in_a_line() -> None:
    answer = CliRunner().invoke(main, ["load-image", "--name", "nobody", "x.tar"])
    assert answer.exit_code == 1
    assert "no cluster 'nobody'" in answer.output
    assert "Traceback" not in answer.output


def test_without_root_the_remedy_is_kind(tmp_path: Path) -> None:
    script = "import os; from e2e.cluster.machine import preflight; os.setuid(65534); preflight.require_images()"
    if os.geteuid() != 0:
        pytest.skip("needs root to become nobody")
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "use kind" in answer.stderr
