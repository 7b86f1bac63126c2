"""examples/gitops: the step that waits for a job, typed against a real API server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import ControlPlane, kubectl_path
from e2e.cluster.machine.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
JOB = ROOT / "manifests" / "samples" / "job.yaml"
PATH = "/apis/batchwright.dev/v1alpha1/namespaces/default/inferencejobs"


def script() -> str:
    workflow = yaml.safe_load((ROOT / "examples" / "gitops" / "argo-workflow.yaml").read_text())
    (template,) = workflow["spec"]["templates"]
    return str(template["script"]["source"])


@pytest.mark.apiserver
@pytest.mark.parametrize(("condition", "code"), [("Complete", 0), ("Failed", 1)])
def test_the_step_ends_as_the_job_does(
    condition: str, code: int, plane: ControlPlane, kubectl: Callable[..., Any]
) -> None:
    kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd/inferencejobs.batchwright.dev")
    environ = {**os.environ, "JOB": "score-items", "MANIFEST": str(JOB), "PAUSE": "0.2"}
    environ |= {"KUBECONFIG": str(plane.kubeconfig), "PATH": f"{kubectl_path().parent}:{os.environ['PATH']}"}
    step = subprocess.Popen(
        ["sh", "-c", script()], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert wait_until(lambda: plane.api.exists(f"{PATH}/score-items"), timeout_s=60, interval_s=0.2)
        turned = {"type": condition, "status": "True", "reason": "Why", "message": "as it is",
                  "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
        assert step.poll() is None  # nothing is over yet
        plane.api.patch(f"{PATH}/score-items/status", {"status": {"conditions": [turned]}})
        said = step.communicate(timeout=60)
        assert (step.returncode, f"{condition}: as it is" in "".join(said)) == (code, True)
    finally:
        step.kill()
        plane.api.delete(f"{PATH}/score-items")
