"""The plugin as one file (`e2e.release.plugin`), in an environment with a Python and nothing else, against a real API
server: all its commands, its start, its cache."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from batchwright_operator.deployments.revision import Revision, named, revision_object
from e2e.cluster import ControlPlane, kubectl_path
from e2e.release import plugin, plugin_main
from e2e.release.chart import version
from tests.plugin import world
from tests.plugin.cluster_objects import deployment, event, job, node, pod, processor, profile

pytestmark = pytest.mark.apiserver
FAST = "ip-10-0-12-201.eu-central-1.compute.internal"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
MACHINE = os.uname().machine


@dataclass(frozen=True, slots=True, kw_only=True)
class OneFile:
    """The file on a PATH with a bare Python, and a home of its own."""

    path: Path
    environment: dict[str, str]

    def run(self, *arguments: str, status: int = 0, **environ: str) -> str:
        """What it prints; both streams."""
        done = subprocess.run(
            [str(self.path), *arguments], env=self.environment | environ, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout

    def on_a_terminal(self, *arguments: str, columns: int) -> list[str]:
        """The lines that it prints on one of this width, without colours."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen([str(self.path), *arguments], env=self.environment, stdout=its, stderr=its)
        os.close(its)
        text = b""
        try:
            while part := os.read(ours, 65536):
                text += part
        except OSError:  # Linux says so of a terminal that was closed
            pass
        os.close(ours)
        assert process.wait(60) == 0, text.decode()
        return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """Two nodes, a deployment with an older revision, one in another namespace that cannot serve, and a job."""
    with world.start("one-file") as plane:
        now = time.time()
        world.put(plane, [
            node(FAST, now=now), node("slow", now=now),
            profile(FAST, processor("cpu", 40.0, product="a processor with a rather long name of its own")),
            profile("slow", processor("cpu", 20.0)),
            deployment("ocr", now=now), deployment("broken", namespace="shop", ready=0, now=now),
            pod("ocr-1", of="ocr", node=FAST, now=now),
            job("pages", state="Completed", done=1000, failed=3, now=now),
            event("ocr", "LatencyBelowTarget", "recognizer: batch size 8 -> 16: p95 41 ms", ago=40, now=now),
        ])  # fmt: skip
        owner = plane.api.get("/apis/batchwright.dev/v1alpha1/namespaces/default/modeldeployments/ocr")
        for number, order in ((1, "Oldest"), (2, "FairShare")):
            spec = {**owner["spec"], "queueOrder": order}
            spec.pop("replicas")
            template = {"spec": {"initContainers": [{"name": "sidecar", "image": f"worker:{number}"}]}}
            revision = named("ocr", Revision(name="", kind="cpu", number=number, spec=spec, template=template))
            path = "/apis/apps/v1/namespaces/default/controllerrevisions"
            plane.api.request("POST", path, revision_object(owner, revision))
        yield plane


@pytest.fixture(scope="module")
def one_file(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> OneFile:
    """Built for this Python and machine; a kubeconfig whose context is of namespace shop."""
    folder = tmp_path_factory.mktemp("one-file")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    here = {name: machine for name, machine in plugin.PLATFORMS.items() if machine == MACHINE and "many" in name}
    programs = folder / "venv" / "bin"
    plugin.build(programs / plugin.NAME, pythons=[HERE], platforms=here)
    content = yaml.safe_load(plane.kubeconfig.read_text())
    content["contexts"][0]["context"]["namespace"] = "shop"
    (folder / "config").write_text(yaml.safe_dump(content))
    path = f"{programs}:{kubectl_path().parent}:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": str(folder), "KUBECONFIG": str(folder / "config"), "LC_ALL": "C.UTF-8"}
    return OneFile(path=programs / plugin.NAME, environment=environment)


COMMANDS: dict[str, tuple[list[str], str]] = {
    "its version": (["--version"], f"version {version()}"),
    "status": (["status"], "2 nodes, 2 processors"),
    "top": (["top", "-o", "json"], '"capacity": 40.0'),
    "bench": (["bench", "slow"], "SERVICES AT ONCE"),
    "why, in the context's namespace": (["why", "broken"], "broken: Available"),
    "decisions": (["decisions", "ocr"], "default/ocr  LatencyBelowTarget: recognizer: batch size 8 -> 16"),
    "plan": (["-n", "default", "plan", "ocr", "--replicas", "3", "-o", "yaml"], "pods:"),
    "history": (["-n", "default", "history", "ocr"], "worker:1"),
    "retry": (["-n", "default", "retry", "pages", "--dry-run"], "pages-retry-1 would run the failed items"),
    "completion": (["completion", "words", "--", "why", ""], "broken\n:4"),
    "the shell's completion": (["completion", "bash"], "_KUBECTL_BATCHWRIGHT_COMPLETE"),
}


@pytest.mark.parametrize(("arguments", "said"), COMMANDS.values(), ids=COMMANDS)
def test_commands_work_by_the_file_alone(one_file: OneFile, arguments: list[str], said: str) -> None:
    assert said in one_file.run(*arguments)


def test_kubectl_finds_it_and_completes_it(one_file: OneFile) -> None:
    completer = one_file.path.with_name("kubectl_complete-batchwright")
    completer.write_text(one_file.run("completion", "kubectl"))
    completer.chmod(0o755)
    for arguments, said in (
        (["batchwright", "why", "broken"], "broken: "),
        (["__complete", "batchwright", "hi"], "history"),
    ):
        done = subprocess.run(
            ["kubectl", *arguments], env=one_file.environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith(said)


def test_writes_are_made(one_file: OneFile, plane: ControlPlane) -> None:
    path = "/apis/batchwright.dev/v1alpha1/namespaces/default"
    assert "goes back to revision 1" in one_file.run("-n", "default", "rollback", "ocr", "--to-revision", "1")
    assert plane.api.get(f"{path}/modeldeployments/ocr")["spec"]["queueOrder"] == "Oldest"
    one_file.run("-n", "default", "retry", "pages")
    assert plane.api.get(f"{path}/inferencejobs/pages-retry-1")["spec"]["output"]["mode"] == "RetryFailed"
    one_file.run("-n", "default", "restart", "ocr")
    one_file.run("bench", "slow", "--again")


@pytest.mark.parametrize("arguments", [["top"], ["status"], ["-n", "default", "history", "ocr"]], ids=lambda a: a[-1])
def test_tables_fit_eighty_columns(one_file: OneFile, arguments: list[str]) -> None:
    lines = one_file.on_a_terminal(*arguments, columns=80)
    titles = next(n for n, line in enumerate(lines) if re.match(r"NODE|MODELDEPLOYMENT|REVISION", line))
    rows = lines[titles:]
    assert len(rows) > 2
    assert max(map(len, rows)) <= 80


def test_the_dashboard_is_served_and_kept(one_file: OneFile, tmp_path: Path) -> None:
    one_file.run("dashboard", "--save", str(tmp_path / "page.html"))
    assert "default/ocr" in (tmp_path / "page.html").read_text()
    command = [str(one_file.path), "dashboard", "--no-open"]
    with subprocess.Popen(command, env=one_file.environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            with urllib.request.urlopen(address.partition("#")[0], timeout=60) as page:
                assert b"dashboard.js" in page.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_decisions_follow_what_comes(one_file: OneFile, plane: ControlPlane) -> None:
    command = [str(one_file.path), "decisions", "--follow", "--tail", "0"]
    environment = one_file.environment | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for number in range(100):  # it may not watch yet when the first ones come
                world.put(plane, [event("ocr", f"Said{number}", "now", ago=0.001 * number, now=time.time())])
                os.set_blocking(process.stdout.fileno(), False)
                if said := process.stdout.readline():
                    assert re.match(r"\S+Z   default/ocr  Said\d+: now", said)
                    break
                time.sleep(0.1)
            else:
                pytest.fail("nothing followed")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


# --- the file ------------------------------------------------------------------------------------


def test_it_is_small_and_has_no_kopf(one_file: OneFile) -> None:
    with zipfile.ZipFile(one_file.path) as content:
        names = content.namelist()
    assert not [name for name in names if re.match(r"lib/(kopf|pandas|numpy|grpc|batchwright_operator/process/)", name)]
    assert one_file.path.stat().st_size < 3_000_000


def test_many_first_starts_at_once_make_one_folder(one_file: OneFile, tmp_path: Path) -> None:
    environment = one_file.environment | {"XDG_CACHE_HOME": str(tmp_path)}
    started = [
        subprocess.Popen([str(one_file.path), "--help"], env=environment, stdout=subprocess.DEVNULL) for _ in range(3)
    ]
    assert [each.wait(60) for each in started] == [0, 0, 0]
    assert len(list((tmp_path / "kubectl-batchwright").iterdir())) == 1


def test_a_home_that_cannot_be_written_to_serves_too(one_file: OneFile, tmp_path: Path) -> None:
    assert "status" in one_file.run("--help", XDG_CACHE_HOME="/proc/none", TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_python_that_it_has_nothing_for_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, one_file: OneFile, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer .*; this is 3\.10"):
        plugin_main.main()
    monkeypatch.setattr(plugin_main.platform, "machine", lambda: "s390x")
    with pytest.raises(SystemExit, match=r"nothing for Python 3\.10 on linux s390x; the package has it too: pip"):
        plugin_main.unpack(str(one_file.path), tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file as it is released, for all Pythons and machines."""
    path = tmp_path_factory.mktemp("whole") / plugin.NAME
    plugin.build(path)
    return path


@pytest.mark.soak
def test_the_same_sources_make_the_same_file(whole: Path, tmp_path: Path) -> None:
    plugin.build(tmp_path / "again")
    assert whole.read_bytes() == (tmp_path / "again").read_bytes()


@pytest.mark.soak
@pytest.mark.parametrize("version", plugin.PYTHONS)
def test_it_starts_in_every_python_of_this_machine(
    one_file: OneFile, whole: Path, tmp_path: Path, version: str
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    environment = one_file.environment | {"XDG_CACHE_HOME": str(tmp_path)}
    times = []
    for _ in range(4):
        began = time.monotonic()
        command = [python, str(whole), "top", "-o", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        times.append(round(time.monotonic() - began, 2))
    processors = json.loads(done.stdout)["processors"]
    assert [each["capacity"] for each in processors] == [40.0, 20.0]
    size = whole.stat().st_size / 1e6
    print(f"Python {version}: {size:.1f} MB; `top` in {times[0]} s the first time, then {times[1:]} s")


def interpreter(version: str) -> str | None:
    """A Python of this version that starts: pyenv has one on the PATH for each, whether it is switched on or not."""
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
    for each in filter(None, (shutil.which(f"python{version}"), *map(str, of_pyenv))):
        if subprocess.run([each, "-c", ""], capture_output=True, check=False).returncode == 0:
            return each
    return None
