"""The plugin against a real API server, as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from batchwright_operator.plugin.cli import cli
from e2e.cluster import ControlPlane, kubectl_path
from tests.plugin import world
from tests.plugin.cluster_objects import deployment, job, node, pod, processor, profile
from tests.reconcile.bed import ROOT, SYSTEM

pytestmark = pytest.mark.apiserver
STALLED = {"Ready": ("False", "ClaimNotFound", "0 of 1 replicas ready; PersistentVolumeClaim models does not exist"),
           "Stalled": ("True", "ClaimNotFound", "")}  # fmt: skip


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A cluster with two nodes, a deployment that serves, one in another namespace that cannot, and a job."""
    with world.start("plugin") as plane:
        now = time.time()
        world.put(plane, [
            node("fast", now=now), node("slow", now=now),
            profile("fast", processor("cpu", 40.0, product="a processor with a rather long name of its own")),
            profile("slow", processor("cpu", 20.0)),
            deployment("ocr", now=now),
            deployment("broken", namespace="shop", replicas=1, ready=0, conditions=STALLED, now=now),
            pod("ocr-1", of="ocr", node="fast", now=now),
            job("pages", failed=3, now=now),
        ])  # fmt: skip
        yield plane


@pytest.fixture
def kubeconfig(plane: ControlPlane, tmp_path: Path) -> Path:
    """The plane's, whose context is of namespace shop."""
    content = yaml.safe_load(plane.kubeconfig.read_text())
    content["contexts"][0]["context"]["namespace"] = "shop"
    (tmp_path / "config").write_text(yaml.safe_dump(content))
    return tmp_path / "config"


def run(kubeconfig: Path, *arguments: str, status: int = 0) -> str:
    """What `kubectl batchwright` prints, both streams in the order of writing."""
    return done(kubeconfig, *arguments, status=status).output


def done(kubeconfig: Path, *arguments: str, status: int = 0) -> Result:
    """As the program itself does it, without another half a second of imports for each call."""
    found = CliRunner(env={"KUBECONFIG": str(kubeconfig)}).invoke(cli, arguments, prog_name="kubectl batchwright")
    assert found.exit_code == status, found.output
    return found


def test_the_namespace_is_that_of_the_context(kubeconfig: Path) -> None:
    assert "Stalled=True ClaimNotFound" in run(kubeconfig, "why", "broken")
    assert "namespace shop has neither" in run(kubeconfig, "why", "ocr", status=1)
    assert "Ready=True Available" in run(kubeconfig, "-n", "default", "why", "ocr")


def test_status_is_one_screen_with_what_is_wrong_first(kubeconfig: Path) -> None:
    said = run(kubeconfig, "status")
    lines = said.splitlines()
    assert "to act on" in lines[0]
    assert "2 nodes, 2 processors" in lines[1]
    assert f"no operator has led in namespace {SYSTEM} yet" in said
    assert said.index("ModelDeployment shop/broken: ClaimNotFound") < said.index(
        "InferenceJob default/pages: ItemsFailed"
    )
    assert "$ kubectl batchwright -n shop why broken" in said
    assert len(lines) < 40
    assert "broken" not in run(kubeconfig, "-n", "default", "status")
    run(kubeconfig, "status", "--exit-code", status=3)


@pytest.mark.parametrize(
    ("arguments", "look"),
    [
        (["status"], lambda d: d["deployments"][0]["models"][0]["batchSize"] == 8),
        (["top"], lambda d: [each["capacity"] for each in d["processors"]] == [40.0, 20.0]),
        (["bench", "fast"], lambda d: d["processors"][0]["loadTable"][4]["imagesPerSecond"] == "40.00"),
        (["-n", "default", "why", "ocr"], lambda d: d["pods"][0]["receipt"]["terms"]["memory"] == "0.04"),
        (["-n", "default", "plan", "ocr", "--replicas", "3"], lambda d: len(d["pods"]) == 3),
        (["-n", "default", "history", "ocr"], lambda d: d == {"name": "ocr", "revisions": []}),
    ],
    ids=["status", "top", "bench", "why", "plan", "history"],
)
def test_programs_get_json_and_yaml(kubeconfig: Path, arguments: list[str], look: Any) -> None:
    told = [done(kubeconfig, *arguments, "-o", form).stdout for form in ("json", "yaml")]
    parsed = json.loads(told[0])
    assert look(parsed)
    shape = yaml.safe_load(told[1])
    assert shape.keys() == parsed.keys()


def test_tables_are_whole_where_a_program_reads_them(kubeconfig: Path) -> None:
    row = run(kubeconfig, "top").splitlines()[-2]
    assert "a processor with a rather long name of its own" in row
    assert row.split()[0] == "fast"


def test_names_are_completed_by_what_is_there(kubeconfig: Path) -> None:
    def completed(*words: str) -> list[str]:
        return run(kubeconfig, "completion", "words", "--", *words).splitlines()

    assert completed("why", "") == ["broken", ":4"]
    assert completed("-n", "default", "why", "o") == ["ocr", ":4"]
    assert completed("-n", "sh") == ["shop", ":4"]
    assert completed("bench", "") == ["fast", "slow", ":4"]
    assert completed("plan", "-f", "") == [":0"]
    assert [line.split("\t")[0] for line in completed("r")] == ["restart", "retry", "rollback", ":4"]


def test_kubectl_completes_the_plugin(kubeconfig: Path, tmp_path: Path) -> None:
    """kubectl itself, by the program that `completion kubectl` prints."""
    programs = tmp_path / "bin"
    programs.mkdir()
    paths = [str(ROOT / "operator"), str(ROOT / "worker")]
    entry = f"import sys; sys.path[:0] = {paths!r}; import batchwright_operator.plugin.cli as c; c.main()"
    (programs / "kubectl-batchwright").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{entry}" "$@"\n')
    (programs / "kubectl_complete-batchwright").write_text(run(kubeconfig, "completion", "kubectl"))
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "PATH": f"{programs}:{os.environ['PATH']}"}
    asked = [str(kubectl_path()), "__complete", "batchwright", "why", "b"]
    answer = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[0] == "broken"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_the_program(kubeconfig: Path, shell: str) -> None:
    assert "_KUBECTL_BATCHWRIGHT_COMPLETE" in run(kubeconfig, "completion", shell)


def test_a_user_with_few_rights_sees_what_may_be_seen(plane: ControlPlane, kubeconfig: Path, tmp_path: Path) -> None:
    """One who may read ModelDeployments of namespace shop, and nothing else."""
    rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/shop"
    rules = [{"apiGroups": ["batchwright.dev"], "resources": ["modeldeployments"], "verbs": ["get", "list", "watch"]}]
    plane.api.request("POST", f"{rights}/roles", {"metadata": {"name": "reader"}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": "shop"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    plane.api.request(
        "POST", f"{rights}/rolebindings", {"metadata": {"name": "reader"}, "subjects": [subject], "roleRef": role}
    )
    token = plane.api.request("POST", "/api/v1/namespaces/shop/serviceaccounts/default/token", {"spec": {}})
    content = yaml.safe_load(kubeconfig.read_text())
    content["users"][0]["user"] = {"token": token["status"]["token"]}
    kubeconfig.write_text(yaml.safe_dump(content))
    said = run(kubeconfig, "status")
    assert "shop/broken" in said
    assert "of modeldeployments only those in namespace shop" in said
    assert "you may not list nodes" in said
