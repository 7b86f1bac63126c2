"""A program that is not there is named together with the command that installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.cluster.machine import preflight, tools
from e2e.cluster.machine.errors import RequirementError

ROOT = Path(__file__).resolve().parents[2]
BENCH = [sys.executable, "-m", "e2e.bench", "noop"]
DEMO = [sys.executable, "-m", "e2e.demo", "up"]
DOWN = [sys.executable, "-m", "e2e.demo", "down"]
STATUS = [sys.executable, "-m", "e2e.cluster", "status"]
PROMETHEUS = [sys.executable, "-c", "from e2e.debian import unpacked; unpacked('prometheus')"]
PAUSE = [sys.executable, "-c", "from e2e.cluster.build.oci import pause_archive; pause_archive()"]
INSTALL = ["/usr/bin/env", "make", "install", "VENV=absent"]


def run(command: list[str], path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command on a machine that has only what lies in `path`, and nothing cached."""
    packages = os.pathsep.join(map(str, (ROOT, ROOT / "operator", ROOT / "worker")))
    environment = {"PATH": str(path), "HOME": str(path.parent / "home"), "PYTHONPATH": packages}
    return subprocess.run(
        command, cwd=ROOT, env=environment | environ, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder for PATH with a shell and make alone."""
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("make", "bash", "echo", "test", "touch"):
        (path / name).symlink_to(next(p for p in (Path("/usr/bin", name), Path("/bin", name)) if p.exists()))
    return path


@pytest.mark.parametrize(
    ("command", "environ", "said"),
    [
        (BENCH, {}, "taskset, wrk are missing: apt-get install util-linux wrk (Debian, Ubuntu)"),
        (DEMO, {"CLUSTER": "kind"}, "docker, kind, kubectl are missing: brew install docker kind kubernetes-cli"),
        (DEMO, {"CLUSTER": "current", "IMAGE": "r/x"}, "kubectl is missing: brew install kubernetes-cli, see https://"),
        (DOWN, {"CLUSTER": "kind"}, "docker, kind are missing"),
        (STATUS, {}, "ip is missing: apt-get install iproute2 (Debian, Ubuntu)"),
        (PROMETHEUS, {}, "apt-cache, apt-get, dpkg-deb are missing: apt-get install apt dpkg"),
        (PAUSE, {}, "gcc is missing: apt-get install gcc libc6-dev (Debian, Ubuntu), brew install gcc"),
        (INSTALL, {}, "missing: apt-get install python3 python3-venv (Debian, Ubuntu), brew install python"),
    ],
    ids=["bench", "kind", "current", "kind-down", "status", "debian", "pause", "install"],
)
def test_a_missing_program_is_named_with_its_package(
    bare: Path, command: list[str], environ: dict[str, str], said: str
) -> None:
    done = run(command, bare, **environ)
    assert done.returncode != 0
    assert said in done.stderr


def test_one_that_all_systems_package_names_both() -> None:
    assert tools.missing(["wrk"]) == "wrk is missing: apt-get install wrk (Debian, Ubuntu), brew install wrk"


def test_what_is_there_is_found() -> None:
    assert tools.find("unshare").is_absolute()


def test_without_apt_the_remedy_names_all_packages(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    monkeypatch.setenv("PATH", str(bare))
    with pytest.raises(RequirementError, match=r"apt-get install .*buildah .*mmdebstrap .*or use kind"):
        preflight.require_images()


def test_programs_that_the_machine_must_have_are_known() -> None:
    for needs in (preflight.NODES, preflight.COMPILING, preflight.IMAGES):
        assert all(need.source.debian for need in needs)


def test_too_few_inotify_instances_are_raised_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("128\n")
    preflight.raise_inotify_limit(limit)
    assert limit.read_text() == "1024"
    assert "from 128: sysctl fs.inotify.max_user_instances=1024" in capsys.readouterr().err


def test_enough_inotify_instances_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = tmp_path / "max_user_instances"
    limit.write_text("8192\n")
    preflight.raise_inotify_limit(limit)
    assert limit.read_text() == "8192\n"
    assert not capsys.readouterr().err


def test_a_limit_that_cannot_be_raised_is_said_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    preflight.raise_inotify_limit(Path("/proc/sys/kernel/cap_last_cap"))  # a small number that nobody may write
    assert "nodes may fail for want of them: sysctl fs.inotify" in capsys.readouterr().err
