"""Targets that change on a real API server reach real sidecars, which run on: through crashes of either side, and with
the status saying who serves by them. Pods and their kubelet are made up; the sidecars have no runtime."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from batchwright_operator.kube.client import path_of
from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import CONFIG_MAP, CONTROLLER_REVISION, DEPLOYMENT, MODEL_DEPLOYMENT, POD, SECRET
from e2e.cluster import ControlPlane
from tests.deployments.deployment_objects import EMULATED, deployment, emulated, model
from tests.deployments.real_api import Kubectl, eventually, namespace, operator, service_account
from tests.protocol.serving import fetched

pytestmark = pytest.mark.apiserver
PLACE = "live"
RECONCILER = "batchwright_operator.deployments.reconciler:ModelDeploymentReconciler"
FOLLOWING = {"BATCHWRIGHT_BACKGROUNDS": '["batchwright_operator.deployments.follower:SidecarFollower"]'}


class Sidecar:
    """`batchwright-worker sidecar` at a pod's address, with a file as the kubelet would have mounted it."""

    def __init__(self, folder: Path, address: str, token: str, text: str) -> None:
        self._folder, self.address, self._token = folder, address, token
        folder.mkdir()
        (folder / "deployment.json").write_text(text)
        (folder / "token").write_text(token)
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "batchwright_worker", "sidecar", "--deployment"]
        command += [str(self._folder / "deployment.json"), "--host", self.address, "--http-port", "0"]
        command += ["--grpc-port", "0", "--ipc-dir", str(self._folder), "--token-file", str(self._folder / "token")]
        command += ["--linger-seconds", "0"]
        with (self._folder / "sidecar.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def crash(self) -> None:
        """It starts anew with the file that it had."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def generation(self) -> int:
        """That of the configuration in force; -1 while it does not answer."""
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            answer = fetched(urllib.request.Request(f"http://{self.address}:8090/v1/state", headers=headers))[2]
        except OSError:
            return -1
        return int(json.loads(answer)["configuration"]["generation"])


class Place:
    """The namespace with one ModelDeployment `ocr` of two replicas."""

    def __init__(self, api: Any, folder: Path) -> None:
        self.api, self._folder = api, folder
        raw = deployment(models=[model("echo", emulated())], replicas=2)
        raw["spec"]["runtimes"] = [{"accelerator": EMULATED}]
        del raw["status"], raw["metadata"]["uid"], raw["metadata"]["generation"]
        raw["metadata"]["namespace"] = PLACE
        api.request("POST", path_of(MODEL_DEPLOYMENT, PLACE), raw)

    def all(self, resource: Any) -> list[dict[str, Any]]:
        return list(self.api.get(path_of(resource, PLACE))["items"])

    def target(self, milliseconds: int) -> int:
        """The user wants another latency; the generation of that."""
        path = path_of(MODEL_DEPLOYMENT, PLACE, "ocr")
        [named] = self.api.get(path)["spec"]["models"]
        wanted = [named | {"targets": {"latencyMilliseconds": milliseconds}}]
        return int(self.api.patch(path, {"spec": {"models": wanted}})["metadata"]["generation"])

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.api.get(path_of(MODEL_DEPLOYMENT, PLACE, "ocr")).get("status") or {})

    def configured(self) -> tuple[str, int, int]:
        """Reason of the condition, replicas that serve by the newest, generation that this was decided from."""
        status = self.status
        reason = find(status.get("conditions"), "Configured").get("reason", "")
        return str(reason), int(status.get("configuredReplicas") or 0), int(status.get("observedGeneration") or 0)

    @contextmanager
    def sidecars(self) -> Iterator[list[Sidecar]]:
        """Its pods run."""
        [config] = [each for each in self.all(CONFIG_MAP) if each["metadata"]["name"].startswith("ocr-config")]
        secret = self.api.get(path_of(SECRET, PLACE, "ocr-control"))
        token = b64decode(secret["data"]["token"]).decode()
        with ExitStack() as stack:
            found = []
            for number, pod in enumerate(self.all(POD), start=1):
                folder = self._folder / str(number)
                sidecar = Sidecar(folder, f"127.88.250.{number}", token, config["data"]["deployment.json"])
                stack.callback(lambda sidecar=sidecar: (sidecar.process.kill(), sidecar.process.wait()))
                found.append(sidecar)
                status = {"name": "sidecar", "image": "x", "imageID": "", "ready": True, "started": True,
                          "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}  # fmt: skip
                body = {"podIP": sidecar.address, "podIPs": [{"ip": sidecar.address}], "phase": "Running"}
                path = f"{path_of(POD, PLACE, pod['metadata']['name'])}/status"
                self.api.patch(path, {"status": {**body, "initContainerStatuses": [status]}})
            yield found


def test_targets_reach_running_sidecars_whoever_crashes(
    with_crds: Kubectl, control_plane: ControlPlane, tmp_path: Path
) -> None:
    namespace(with_crds, PLACE)
    api, kubeconfig = control_plane.api, service_account(with_crds, control_plane)
    place = Place(api, tmp_path)
    with ExitStack() as stack:
        with operator(kubeconfig, tmp_path, RECONCILER, **FOLLOWING) as process:
            eventually(lambda: len(place.all(POD)) == 2, "two pods")
            first, second = sidecars = stack.enter_context(place.sidecars())
            eventually(lambda: place.configured() == ("UpToDate", 2, 1), "both report what they have")
            before = {each["metadata"]["uid"] for each in place.all(POD)}
            [made], [revision] = place.all(DEPLOYMENT), place.all(CONTROLLER_REVISION)
            two = place.target(50)
            eventually(lambda: {each.generation() for each in sidecars} == {two}, "the new target in both")
            eventually(lambda: place.configured() == ("UpToDate", 2, two), "a status that says so")
            first.crash()
            eventually(lambda: first.generation() == two, "again in one that came back with its old file")
            process.send_signal(signal.SIGKILL)
            process.wait()
        three = place.target(60)
        second.crash()
        eventually(lambda: second.generation() >= 1, "it serves by its file while there is no operator")
        (tmp_path / "again").mkdir()
        with operator(kubeconfig, tmp_path / "again", RECONCILER, **FOLLOWING):
            eventually(lambda: {each.generation() for each in sidecars} == {three}, "the newest target in both")
            eventually(lambda: place.configured() == ("UpToDate", 2, three), "a status that says so")
        assert {each["metadata"]["uid"] for each in place.all(POD)} == before
        assert [each["metadata"]["generation"] for each in place.all(DEPLOYMENT)] == [made["metadata"]["generation"]]
        assert [each["metadata"]["name"] for each in place.all(CONTROLLER_REVISION)] == [revision["metadata"]["name"]]
    for log in tmp_path.rglob("*.log"):
        assert "Traceback" not in log.read_text(), log
