"""Objects as Argo CD and Flux judge them: `e2e/cluster/components/gitops`, which is their own libraries."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.cluster.build.components import program
from tests.manifests.argocd import FOLDER

MANAGER = "argocd-controller"
PLURALS = {"ModelDeployment": "modeldeployments", "InferenceJob": "inferencejobs"}
Raw = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`differences`: what each way of Argo CD's diff would change; empty if the object is in sync."""

    differences: dict[str, str]
    health: str
    message: str
    kstatus: str


def judged(kubeconfig: Path, cases: dict[str, tuple[Raw, Raw]]) -> dict[str, Verdict]:
    """Name -> (as it lies in git, as it is in the cluster) judged."""
    asked = {
        "kubeconfig": str(kubeconfig),
        "plurals": PLURALS,
        "health": {kind: (FOLDER / kind / "health.lua").read_text() for kind in PLURALS},
        "cases": [{"name": name, "config": config, "live": live} for name, (config, live) in cases.items()],
    }
    done = subprocess.run(
        [str(program("gitops"))], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name: Verdict(**found) for name, found in json.loads(done.stdout).items()}
