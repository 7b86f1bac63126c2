"""Every command that a page tells a reader to type is typed here, as it is written there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from e2e.cluster import ControlPlane, kubectl_path, teardown
from e2e.peers import peer_python
from tests.house.commands import EXAMPLES, PAGES, ROOT, Block, astray, blocks, clone, inline, name_of, scripts
from tests.house.ways import NOT_RUN, WALKED, needs, offers, runnable, script

BIN = Path(sys.executable).parent
ALONE = [page for page in (*PAGES, *EXAMPLES) if name_of(page) not in WALKED]
TYPED = [(page, kind) for page in ALONE for kind in ("", "apiserver", "cluster")
         if any(runnable(block) and needs(block) == kind for block in scripts(page))]  # fmt: skip
OF_PACKAGES = {
    "docs/openai.md": ("minilm",),
    "docs/tutorials/embeddings-from-hugging-face.md": ("minilm",),
    "docs/tutorials/job-over-s3.md": ("moto",),
    "examples/embeddings/job.yaml": ("minilm",),
    "examples/filetypes/job.yaml": ("magika",),
}
"""Packages whose models an example takes: page -> environments of their own (`e2e.peers`)."""
LINES = [line for page in PAGES for block in scripts(page) for line in block.lines]
INLINE = sorted({command for page in PAGES for command in inline(page)})
TO_KUBECTL = [one for one in INLINE if one.startswith("kubectl ") and not one.startswith("kubectl batchwright")]


def pages_of(wanted: str) -> pytest.MarkDecorator:
    """Parametrizes by the pages that have blocks for this machine."""
    pages = [page for page, kind in TYPED if kind == wanted]
    return pytest.mark.parametrize("page", pages, ids=map(name_of, pages))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository as a clone would be, with this environment in it."""
    folder = tmp_path / "batchwright"
    clone(folder)
    (folder / ".venv").symlink_to(sys.prefix)
    for name in ("pyproject.toml", "locks/all.txt"):  # older than the environment: make has nothing to install
        os.utime(folder / name, (0, 0))
    return folder


def type_in(
    copy: Path, lines: list[Block], *, inside: tuple[str, ...] = (), pass_fds: tuple[int, ...] = (), **environ: str
) -> str:
    """Types the blocks into one shell in the copy; what it printed. A command that fails fails the test."""
    (copy.parent / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    path = os.pathsep.join(map(str, (copy, copy / "operator", copy / "worker")))
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "CURL_HOME": str(copy.parent)}
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        environment.pop(name, None)  # a reader's shell is not run by make and pytest
    done = subprocess.run(
        [*inside, "bash", "-c", script(lines)],
        cwd=copy, env={**environment, "PYTHONPATH": path, **environ}, capture_output=True, text=True, check=False,
        pass_fds=pass_fds,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def own_network() -> tuple[str, ...]:
    """A prefix that gives a command a loopback of its own, so that a page's ports are free whoever else runs, and its
    own processes, so that no server of a page outlives its shell, or this suite; nothing where the kernel refuses."""
    ends = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net")
    for prefix in (ends, (*ends, "--map-root-user")):
        up = [*prefix, "ip", "link", "set", "lo", "up"]
        if shutil.which("setpriv") and subprocess.run(up, capture_output=True, check=False).returncode == 0:
            return (*prefix, "sh", "-c", 'ip link set lo up; exec "$@"', "sh")
    return ()


def of(page: Path, kind: str) -> list[Block]:
    return [block for block in scripts(page) if needs(block) == kind]


@pytest.mark.parametrize("line", ["false", "false && true", "x=$(false)", "make nothing"])
def test_a_command_that_fails_fails_its_test(line: str, tmp_path: Path) -> None:
    block = Block(page="README.md", number=1, language="sh", text=f"{line}   # a comment\ntrue")
    (tmp_path / "here").mkdir()
    with pytest.raises(AssertionError):
        type_in(tmp_path / "here", [block])


# --- on this machine alone -----------------------------------------------------------------------


def test_no_server_of_a_page_outlives_its_shell(tmp_path: Path) -> None:
    if not own_network():
        pytest.skip("the kernel gives no processes of one's own")
    (tmp_path / "here").mkdir()
    held, server = os.pipe()  # the server has the other end for as long as it lives
    text = f"(sleep 600 >&{server} &)\necho started"
    block = Block(page="README.md", number=1, language="sh", text=text)
    try:
        assert "started" in type_in(tmp_path / "here", [block], inside=own_network(), pass_fds=(server,))
    finally:
        os.close(server)
    assert os.read(held, 1) == b"", "its end of the pipe is closed"
    os.close(held)


@pytest.mark.slow
@pages_of("")
def test_commands_work_as_they_are_written(page: Path, copy: Path) -> None:
    for name in OF_PACKAGES.get(name_of(page), ()):
        peer_python(name)  # there is no network where the commands are typed
    type_in(copy, of(page, ""), inside=own_network())


@pytest.mark.slow
def test_what_is_generated_is_up_to_date_after_the_page_that_says_so(copy: Path) -> None:
    block = Block(page="CONTRIBUTING.md", number=0, language="sh", text="make generate\nmake help")
    before = {path: path.read_bytes() for path in (copy / "crds").iterdir()}
    assert "generate" in type_in(copy, [block])
    assert {path: path.read_bytes() for path in (copy / "crds").iterdir()} == before


# --- against an API server -----------------------------------------------------------------------


SUPPOSED = ("examples/ocr/serve/deployment.yaml",)
"""Objects that a page's commands suppose to be there."""
OF_OTHERS = ("keda.sh",)
"""API groups whose definitions this API server does not have."""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with our CRDs, as a page that says `kubectl` supposes."""
    with ControlPlane.start("pages") as plane:
        command = [str(kubectl_path()), "--kubeconfig", str(plane.kubeconfig), "apply", "--server-side", "-k", "crds"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        wait = [*command[:3], "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]
        subprocess.run(wait, check=True, capture_output=True)
        for example in SUPPOSED:
            subprocess.run([*command[:3], "apply", "-f", example], cwd=ROOT, check=True, capture_output=True)
        yield plane


@pytest.fixture
def kubectl(plane: ControlPlane) -> dict[str, str]:
    """The environment in which `kubectl` is that API server's."""
    return {"KUBECONFIG": str(plane.kubeconfig), "PATH": f"{BIN}:{kubectl_path().parent}:{os.environ['PATH']}"}


@pytest.mark.apiserver
@pages_of("apiserver")
def test_commands_for_a_cluster_work_as_they_are_written(page: Path, copy: Path, kubectl: dict[str, str]) -> None:
    type_in(copy, of(page, "apiserver"), **kubectl)


@pytest.mark.apiserver
@pytest.mark.parametrize("command", TO_KUBECTL)
def test_a_kubectl_command_in_a_sentence_works(command: str, kubectl: dict[str, str]) -> None:
    done = subprocess.run(["bash", "-c", command], env={**os.environ, **kubectl}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.apiserver
@pytest.mark.parametrize("page", PAGES, ids=map(name_of, PAGES))
def test_objects_on_a_page_are_accepted(page: Path, kubectl: dict[str, str]) -> None:
    """Its blocks of YAML that are whole objects."""
    for block in blocks(page):
        if any(f"apiVersion: {group}/" in block.text for group in OF_OTHERS):
            (document,) = yaml.safe_load_all(block.text)
            target = document["spec"]["scaleTargetRef"]
            assert (target["apiVersion"], target["kind"]) == ("batchwright.dev/v1alpha1", "ModelDeployment")
        elif block.language == "yaml" and "apiVersion:" in block.text:
            command = ["kubectl", "apply", "--dry-run=server", "-f", "-"]
            environment = {**os.environ, **kubectl}
            done = subprocess.run(
                command, input=block.text, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block.page}:{block.number}: {done.stderr}"


# --- with nodes ----------------------------------------------------------------------------------


@pytest.mark.cluster
@pages_of("cluster")
def test_commands_that_start_a_cluster_work_as_they_are_written(page: Path, copy: Path) -> None:
    name = f"pages-{os.getpid()}"
    try:
        assert "fast" in type_in(copy, of(page, "cluster"), BATCHWRIGHT_CLUSTER=name)
        assert name not in teardown.known_clusters()
    finally:
        teardown.remove_cluster(name)


# --- none is forgotten ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=map(name_of, PAGES))
def test_commands_to_type_are_in_blocks_that_tests_read(page: Path) -> None:
    assert astray(page) == []


@pytest.mark.parametrize("command", NOT_RUN)
def test_a_command_that_is_not_run_is_on_a_page_and_holds_what_can_be_held(command: str) -> None:
    assert command in LINES
    NOT_RUN[command].check(command)


@pytest.mark.parametrize("command", [one for one in INLINE if one not in TO_KUBECTL and not one.startswith("make ")])
def test_a_command_in_a_sentence_has_the_options_that_it_names(command: str) -> None:
    offers(command)


def test_the_pages_have_commands() -> None:
    """That the tests above have found any."""
    assert len(LINES) > 25
    assert {kind for _, kind in TYPED} == {"", "apiserver", "cluster"}
