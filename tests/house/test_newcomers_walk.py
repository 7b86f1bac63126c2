"""A newcomer's walk, by the pages' own commands and nothing else: a first result on a machine that has only a Python, a
model of one's own, a Kubernetes with two nodes, a complete job on it, the dashboard. With the time that each part took.

The first part has a home of its own, so no package of this machine's caches; for the rest the packages, and the
cluster's compiled programs, are found where earlier runs left them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from e2e.cluster import kubectl_path, teardown
from tests.house.commands import ROOT, Block, clone, scripts
from tests.house.test_page_commands import own_network
from tests.house.ways import needs, script

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(1800)]

OWN_MODEL = ROOT / "docs" / "tutorials" / "own-model.md"
FIRST_CLUSTER = ROOT / "docs" / "tutorials" / "first-cluster.md"


class Walk:
    """A fresh clone, and what was typed in it."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "batchwright"
        clone(self.clone)
        own = (str(Path(sys.prefix) / "bin"), str(ROOT))
        path = [each for each in os.environ["PATH"].split(os.pathsep) if not each.startswith(own)]
        self.path = os.pathsep.join(path)
        self.took: dict[str, float] = {}

    def type(self, what: str, blocks: Sequence[Block], *prefix: str, **environ: str) -> str:
        """Types the blocks into one shell; what it printed."""
        strange = ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "PYTEST_ADDOPTS", "KUBECONFIG")
        environment = {name: value for name, value in os.environ.items() if name not in strange}
        began = time.monotonic()
        done = subprocess.run(
            [*prefix, "bash", "-c", script(list(blocks))], cwd=self.clone, capture_output=True, text=True, check=False,
            env=environment | {"PATH": self.path} | environ,
        )  # fmt: skip
        self.took[what] = time.monotonic() - began
        assert done.returncode == 0, f"{what}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout


def test_from_an_empty_machine_to_a_complete_job_and_its_dashboard(tmp_path: Path) -> None:
    walk, (first, whole, *cluster) = Walk(tmp_path), scripts(FIRST_CLUSTER)
    home = tmp_path / "home"
    home.mkdir()
    said = walk.type("make try", [first], HOME=str(home), XDG_CACHE_HOME=str(home / ".cache"))
    assert "character" in said
    assert (walk.clone / "build" / "try" / "page.html").stat().st_size > 100_000

    walk.type("the whole environment", [whole])
    walk.path = f"{walk.clone / '.venv' / 'bin'}{os.pathsep}{walk.path}"
    local = [block for block in scripts(OWN_MODEL) if needs(block) == ""]
    said = walk.type("a model of one's own", local, *own_network())
    assert "Margaret" in said

    name = f"walk-{os.getpid()}"
    path = f"{walk.path}{os.pathsep}{kubectl_path().parent}"
    try:
        said = walk.type("a cluster, Batchwright and a job on it", cluster, BATCHWRIGHT_CLUSTER=name, PATH=path)
        assert name not in teardown.known_clusters()
    finally:
        teardown.remove_cluster(name)
    assert "inferencejob.batchwright.dev/score-people condition met" in said
    assert "part-00000" in said
    assert "default/scoring" in (walk.clone / "build" / "page.html").read_text()
    times = ", ".join(f"{what} {seconds:.0f} s" for what, seconds in walk.took.items())
    print(f"{times}; in all {sum(walk.took.values()):.0f} s")
