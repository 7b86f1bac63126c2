"""The control plane alone: no nodes, no privileges."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from e2e.cluster import ApiError, ControlPlane, kwok
from e2e.cluster.control_plane import audit
from e2e.cluster.control_plane.api import Api
from e2e.cluster.control_plane.certificates import KeyPair
from e2e.cluster.machine import footprint
from e2e.cluster.machine.waiting import wait_until
from e2e.cluster.testing import kubectl

pytestmark = pytest.mark.apiserver

STARTER = """
import time
from e2e.cluster import ControlPlane
plane = ControlPlane.start("orphan")
print(plane.folder, flush=True)
time.sleep(60)
"""
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}


def test_it_answers_as_the_pinned_version(control_plane: ControlPlane) -> None:
    answer = json.loads(kubectl(control_plane.kubeconfig, "version", "-o", "json"))
    assert answer["serverVersion"]["gitVersion"] == answer["clientVersion"]["gitVersion"] == "v1.37.1"


def test_the_controllers_work(control_plane: ControlPlane) -> None:
    api = control_plane.api
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "short-lived"}})
    api.delete("/api/v1/namespaces/short-lived")
    assert wait_until(lambda: not api.exists("/api/v1/namespaces/short-lived"), timeout_s=60)


def test_a_client_certificate_is_a_user_without_rights(control_plane: ControlPlane) -> None:
    control_plane.kubeconfig_for("system:serviceaccount:team:robot", "team")
    file = control_plane.folder / "pki" / "system-serviceaccount-team-robot"
    pair = KeyPair(certificate=file.with_suffix(".crt"), key=file.with_suffix(".key"))
    robot = Api(control_plane.server_url, control_plane.ca_path, pair)
    with pytest.raises(ApiError, match='User "system:serviceaccount:team:robot" cannot list') as refused:
        robot.get(CONFIG_MAPS)
    assert refused.value.status == 403


def test_the_audit_log_counts_every_write_of_a_user(control_plane: ControlPlane) -> None:
    since = datetime.now(UTC)
    for name in ("one", "two"):
        control_plane.api.request("POST", CONFIG_MAPS, config_map(name))
        control_plane.api.get(CONFIG_MAPS)
    control_plane.api.delete(f"{CONFIG_MAPS}/two")
    found = audit.writes(control_plane.audit_log_path, user="admin", since=since)
    assert [(write.verb, write.resource, write.name, write.status) for write in found] == [
        ("create", "configmaps", "one", 201),
        ("create", "configmaps", "two", 201),
        ("delete", "configmaps", "two", 200),
    ]


def test_an_outage_loses_no_data(control_planes: Callable[..., ControlPlane]) -> None:
    plane = control_planes("outage", scheduler=False)
    plane.api.request("POST", CONFIG_MAPS, config_map("kept"))
    plane.stop_apiserver()
    assert not plane.api.ready()
    plane.start_apiserver()
    assert plane.api.exists(f"{CONFIG_MAPS}/kept")
    plane.stop()


def test_two_at_the_same_time_are_two_clusters() -> None:
    with ThreadPoolExecutor() as pool:
        planes = list(pool.map(lambda name: ControlPlane.start(name, scheduler=False), ("left", "right")))
    left, right = planes
    with left, right:
        left.api.request("POST", CONFIG_MAPS, config_map("mine"))
        assert not right.api.exists(f"{CONFIG_MAPS}/mine")
    assert not left.folder.exists()


def test_it_ends_with_the_process_that_started_it() -> None:
    command = [sys.executable, "-c", STARTER]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as starter:
        assert starter.stdout is not None
        folder = Path(starter.stdout.readline().strip())
        assert len(footprint.processes_of(folder)) >= 4
        starter.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not footprint.processes_of(folder) and not folder.exists(), timeout_s=60)


def test_simulated_nodes_run_pods(control_planes: Callable[..., ControlPlane]) -> None:
    plane = control_planes("kwok", controller_manager_args=kwok.CONTROLLER_MANAGER_ARGS)
    kwok.start(plane)
    names = kwok.add_nodes(plane.api, 20, resources={"nvidia.com/gpu": "8"})
    container = {"name": "main", "image": "any", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    pod = {"metadata": {"name": "simulated"}, "spec": {"containers": [container]}}
    plane.api.request("POST", "/api/v1/namespaces/default/pods", pod)
    path = "/api/v1/namespaces/default/pods/simulated"
    assert wait_until(lambda: plane.api.get(path)["status"].get("phase") == "Running", timeout_s=60)
    assert plane.api.get(path)["spec"]["nodeName"] in names
    plane.stop()


def test_it_is_ready_soon(control_planes: Callable[..., ControlPlane]) -> None:
    started = time.monotonic()
    control_planes("soon").stop()
    assert time.monotonic() - started < 60, "2.5 to 5 s on an idle machine of 2 cores"
