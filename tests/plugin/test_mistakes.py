"""What a user can do wrong, and what a cluster can answer: a sentence each time, never a traceback, and nothing that a
terminal would obey."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from batchwright_operator.plugin.cli import cli
from tests.plugin.cluster_objects import deployment, event, job, model_spec, node, pod, processor, profile
from tests.plugin.fake_cluster import Answer, answering, cluster, config
from tests.reconcile.bed import ROOT

MANIFEST: dict[str, Any] = {
    "apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "new"},
    "spec": {"models": [model_spec("recognizer")]},
}  # fmt: skip
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status",),
    "status as JSON": ("status", "-o", "json"),
    "dashboard": ("dashboard", "--save", "page.html"),
    "why": ("why", "ocr"),
    "decisions": ("decisions",),
    "decisions of one": ("-n", "default", "decisions", "ocr"),
    "plan": ("plan", "ocr"),
    "plan of a file": ("plan", "-f", "new.yaml"),
    "top": ("top",),
    "bench": ("bench", "fast"),
    "bench again": ("bench", "fast", "--again"),
    "history": ("history", "ocr"),
    "rollback": ("rollback", "ocr"),
    "restart": ("restart", "ocr"),
    "retry": ("retry", "pages"),
}


def ran(folder: Path, *arguments: str, color: bool = False) -> Result:
    """The command, in `folder`, by its kubeconfig `config`; anything but an exit is a traceback."""
    os.chdir(folder)
    runner = CliRunner(env={"KUBECONFIG": str(folder / "config")})
    found = runner.invoke(cli, arguments, prog_name="kubectl batchwright", color=color)
    assert found.exception is None or isinstance(found.exception, SystemExit), (arguments, found.exception)
    assert "Traceback" not in found.output
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # and back
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(MANIFEST))
    return tmp_path


# --- clusters that do not answer as they should ---------------------------------------------------


def status(code: int, reason: str, message: str) -> Answer:
    body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}
    return lambda _, __: (code, "application/json", json.dumps(body).encode())


CLUSTERS: dict[str, tuple[Answer, str]] = {
    "without Batchwright": (
        lambda _, path: (404, "text/plain", b"404 page not found\n") if "batchwright.dev" in path
        else (200, "application/json", b'{"metadata": {"resourceVersion": "1"}, "items": []}')
        if "ocr" not in path and "leases/" not in path
        else status(404, "NotFound", f"{path} not found")(_, path),
        "is Batchwright installed there?",
    ),
    "where nothing may be read": (status(403, "Forbidden", 'User "u" cannot list'), 'User "u" cannot list'),
    "that does not know the user": (status(401, "Unauthorized", "Unauthorized"), "log in anew, or name another"),
    "that is overloaded": (status(429, "TooManyRequests", "too many requests"), "too many requests"),
    "that is a web page": (lambda _, __: (200, "text/html", b"<html>log in</html>"), "Error: "),
    "that answers with a list": (lambda _, __: (200, "application/json", b"[1]"), "Error: "),
    "that breaks off": (lambda _, __: (200, "application/json", b'{"items": [{"me'), "Error: "),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), CLUSTERS.values(), ids=CLUSTERS)
def test_every_command_says_what_is_wrong_with_a_cluster(folder: Path, answer: Answer, said: str) -> None:
    with answering(answer) as server:
        config(folder, server)
        for name, arguments in COMMANDS.items():
            found = ran(folder, *arguments)
            shows_what_it_may = found.exit_code == 0 and name in ("status", "status as JSON", "dashboard", "top",
                                                                   "decisions", "decisions of one")  # fmt: skip
            assert shows_what_it_may or (found.exit_code == 1 and said in found.output), (name, found.output)


def test_a_server_that_is_not_there(folder: Path) -> None:
    config(folder, "http://127.0.0.1:1")
    for arguments in COMMANDS.values():
        found = ran(folder, *arguments)
        assert (found.exit_code, "127.0.0.1" in found.output) == (1, True), found.output


KUBECONFIGS = {
    "none": None, "empty": "", "no YAML": "{", "a list": "- 1", "words": "hello", "contexts of words": "contexts: [a]",
    "no such context": "current-context: gone\ncontexts: []\nclusters: []\nusers: []",
    "no bytes of text": b"\xff\xfe\x00",
    "a command that is not there": yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-program",
            "interactiveMode": "Never"}}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }),
}  # fmt: skip


@pytest.mark.parametrize("content", KUBECONFIGS.values(), ids=KUBECONFIGS)
def test_a_kubeconfig_that_leads_nowhere(folder: Path, content: str | bytes | None) -> None:
    if content is not None:
        (folder / "config").write_bytes(content.encode() if isinstance(content, str) else content)
    for arguments in (("status",), ("why", "ocr"), ("completion", "words", "--", "why", "")):
        found = ran(folder, *arguments)
        assert found.output.startswith("Error: ") or found.output == ":4\n", found.output


# --- command lines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "..", "a/../../secrets", "Größe", "a b", "x?y", "mdep/ocr", "C:\\models", "a,b=c"]
)
def test_what_no_object_is_called_reaches_no_server(folder: Path, name: str) -> None:
    config(folder, "http://127.0.0.1:1")
    for command in ("why", "decisions", "plan", "bench", "history", "rollback", "restart", "retry"):
        found = ran(folder, command, name)
        assert (found.exit_code, "is no name of an object" in found.output) == (2, True), found.output
    assert ran(folder, "-n", name, "status").exit_code == 2
    assert ran(folder, "--system", name, "status").exit_code == 2
    assert ("give the name alone: ocr" in ran(folder, "why", name).output) == (name == "mdep/ocr")


FILES: dict[str, tuple[bytes, str]] = {
    "no YAML": (b"a: [", "not YAML"),
    "no text": (b"\xff\xfe", "not YAML"),
    "a word": (b"hello", "a document is a str"),
    "nothing": (b"", "holds 0 ModelDeployments"),
    "metadata of a word": (b"kind: ModelDeployment\nmetadata: hello", "metadata of type str"),
    "no name": (yaml.safe_dump(MANIFEST | {"metadata": {}}).encode(), "name"),
    "no spec": (b"kind: ModelDeployment\nmetadata: {name: a}", "spec"),
    "a spec of numbers": (yaml.safe_dump(MANIFEST | {"spec": [1]}).encode(), "spec"),
    "many replicas": (
        yaml.safe_dump(MANIFEST | {"spec": {**MANIFEST["spec"], "replicas": "many"}}).encode(), "replicas"
    ),
    "no models": (yaml.safe_dump(MANIFEST | {"spec": {"models": []}}).encode(), "models"),
    "one model twice": (
        yaml.safe_dump(MANIFEST | {"spec": {"models": [model_spec("a"), model_spec("a")]}}).encode(), "models"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_planned(folder: Path, content: bytes, said: str) -> None:
    (folder / "new.yaml").write_bytes(content)
    config(folder, "http://127.0.0.1:1")
    with answering(cluster(quiet())) as server:
        config(folder, server)
        found = ran(folder, "plan", "-f", "new.yaml")
    assert (found.exit_code, said in found.output) == (1, True), found.output


def test_what_would_not_be_made_is_not_said_to_be_there(folder: Path) -> None:
    older = deployment("older")  # of a CRD that had no such rule
    older["spec"]["models"] = "many"
    with answering(cluster([*quiet(), older])) as server:
        config(folder, server)
        found = ran(folder, "plan", "older")
    assert (found.exit_code, "no pod would be made: InvalidSpec: spec.models" in found.output) == (1, True), (
        found.output
    )


def test_a_page_that_cannot_be_written(folder: Path) -> None:
    with answering(cluster(quiet())) as server:
        config(folder, server)
        assert "cannot be written: No such file" in ran(folder, "dashboard", "--save", "none/page.html").output


# --- what objects say -----------------------------------------------------------------------------


def quiet() -> list[dict[str, Any]]:
    return [
        node("fast"),
        profile("fast", processor("cpu", 40.0)),
        deployment("ocr"),
        pod("ocr-1", of="ocr", node="fast"),
    ]


EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[8mhidden\x9b1m\r\n\x08<img src=x onerror=alert(1)>"
OF_OURS = re.compile(r"\x1b\[[0-9;]*m")
"""Colours and weights, which click writes."""


def hostile() -> list[dict[str, Any]]:
    """Objects whose texts somebody has written who means no good."""
    conditions = {
        "Ready": ("False", "Bad", EVIL),
        "Stalled": ("True", "Bad", EVIL),
        "ModelsReady": ("False", "Bad", EVIL),
    }
    bad = deployment("ocr", ready=0, conditions=conditions)
    bad["status"]["models"][0]["lastChangeReason"] = EVIL
    bad["status"]["summary"] = {"reason": EVIL}
    placed = pod("ocr-1", of="ocr", node="fast")
    for name, text in placed["metadata"]["annotations"].items():
        placed["metadata"]["annotations"][name] = text.replace("fast", json.dumps(EVIL)[1:-1])
    told = event("ocr", "Changed", EVIL)
    failed = job("pages", failed=3)
    failed["status"]["failures"] = [{"item": EVIL, "message": EVIL}]
    return [node("fast"), profile("fast", processor("cpu", 40.0, product=EVIL, reason=EVIL)), bad, placed, told, failed]


@pytest.mark.parametrize("arguments", [
    ("status",), ("status", "-o", "wide"), ("status", "-o", "json"), ("status", "-o", "yaml"), ("top",),
    ("bench", "fast"), ("bench", "fast", "-o", "json"), ("-n", "default", "why", "ocr"),
    ("-n", "default", "why", "ocr-1"), ("decisions",), ("decisions", "-o", "json"),
], ids=" ".join)  # fmt: skip
def test_what_others_wrote_commands_no_terminal(folder: Path, arguments: tuple[str, ...]) -> None:
    with answering(cluster(hostile())) as server:
        config(folder, server)
        found = ran(folder, *arguments, color=True)
    assert found.exit_code == 0, found.output
    assert "onerror" in found.output
    rest = OF_OURS.sub("", found.stdout)
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", rest), rest
    if arguments[-1] in ("json", "yaml"):
        assert json.dumps(EVIL)[1:-1] in json.dumps(yaml.safe_load(found.stdout))


# --- the process ----------------------------------------------------------------------------------


def program(folder: Path, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join(map(str, (ROOT / "operator", ROOT / "worker", ROOT)))
    environment = {**os.environ, "KUBECONFIG": str(folder / "config"), "PYTHONPATH": paths, **environ}
    command = [sys.executable, "-m", "batchwright_operator.plugin.cli", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_terminal_without_our_signs_gets_others(folder: Path) -> None:
    with answering(cluster(quiet())) as server:
        config(folder, server)
        told, errors = program(folder, "status", PYTHONIOENCODING="latin-1").communicate(timeout=60)
    assert (errors, b"default/ocr" in told, b"?" in told) == (b"", True, True)


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    many = [deployment(f"model-{n:04}") for n in range(1000)]
    with answering(cluster([*quiet(), *many])) as server:
        config(folder, server)
        process = program(folder, "status", "-o", "json")
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"{\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) in (0, 1)
        process.stderr.close()
