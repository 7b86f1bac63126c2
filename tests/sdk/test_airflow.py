"""`examples/gitops/airflow_dag.py` with Airflow's own task SDK: the DAG is one, and its task ends as the job does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster import ControlPlane
from e2e.cluster.machine.waiting import wait_until
from e2e.peers import peer_python
from tests.reconcile.bed import ROOT, prepare

pytestmark = [pytest.mark.apiserver, pytest.mark.soak]
PEER = "airflow"
"""Named here, since `make test` does not fetch it (`e2e.outlook`)."""
JOB = "/apis/batchwright.dev/v1alpha1/namespaces/team/inferencejobs/score-items-2026-11-30"
PROGRAM = """
import importlib.util, json, sys
example, manifest = sys.argv[1:]
spec = importlib.util.spec_from_file_location("airflow_dag", example)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("tasks", module.nightly().task_ids, flush=True)
print("done", json.dumps(module.score.function(manifest, "2026-11-30", "team")))
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane.start("airflow") as plane:
        prepare(plane, "team")
        yield plane


@pytest.mark.parametrize(("condition", "code", "said"), [
    ("Complete", 0, 'done {"failed": 0, "succeeded": 4, "total": 4}'),
    ("Failed", 1, "NotReached: ItemsFailed: too many"),
])  # fmt: skip
def test_the_task_ends_as_the_job_does(
    plane: ControlPlane, tmp_path: Path, condition: str, code: int, said: str
) -> None:
    manifest = tmp_path / "job.yaml"
    manifest.write_text((ROOT / "manifests" / "samples" / "job.yaml").read_text().split("\n---\n")[1])
    environ = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PYTHONPATH": str(ROOT / "worker")}
    task = subprocess.Popen(
        [str(peer_python(PEER)), "-c", PROGRAM, str(ROOT / "examples/gitops/airflow_dag.py"), str(manifest)],
        env=environ | {"AIRFLOW_HOME": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert wait_until(lambda: plane.api.exists(JOB), timeout_s=60, interval_s=0.2)
        assert plane.api.get(JOB)["spec"]["output"]["uri"].endswith("/2026-11-30")
        turned = {"type": condition, "status": "True", "reason": "ItemsFailed", "message": "too many",
                  "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}  # fmt: skip
        status = {"conditions": [turned], "items": {"total": 4, "succeeded": 4, "failed": 0}, "observedGeneration": 1}
        plane.api.patch(f"{JOB}/status", {"status": status})
        text = task.communicate(timeout=60)[0]
        assert "tasks ['score']" in text
        assert (task.returncode, said in text) == (code, True), text
    finally:
        task.kill()
        plane.api.delete(JOB)
