"""How the commands of the pages are run; and which are not, why, and what is held to be true of those instead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from e2e.demo import targets
from tests.e2e.stage import DEMO, DEMO_DOWN
from tests.house.commands import ROOT, Block

SERVER = "batchwright-worker serve "


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRun:
    """A command that no test types: the reason, and a check that fails when it can no longer work."""

    why: str
    check: Callable[[str], None]


def _is_what_ci_runs(command: str) -> None:
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def _is_a_part_of_the_suite(command: str) -> None:
    """`make check`: its lines are those of `make test`, but for the choice of tests."""
    suite = _recipe("make test")
    *rest, tests = _recipe(command)
    assert rest
    assert set(rest) <= set(suite)
    _marks_exist(tests)


def _has_marks_that_exist(command: str) -> None:
    lines = _recipe(command)
    assert lines
    for line in lines:
        _marks_exist(line)


def _marks_exist(line: str) -> None:
    declared = set(re.findall(r'^  "(\w+): ', (ROOT / "pyproject.toml").read_text(), flags=re.M)) | {"hypothesis"}
    (expression,) = re.findall(r'-m "([^"]+)"|-m (\w+)', line)
    used = set(re.findall(r"\w+", " ".join(expression))) - {"and", "or", "not"}
    assert used
    assert used <= declared


def _begins_what_ci_runs(command: str) -> None:
    assert re.search(rf"^test: {command.split()[1]}\b", (ROOT / "Makefile").read_text(), flags=re.M)


def _knows_its_options(command: str) -> None:
    """Of a bench that measures for minutes: each line's options are in its help."""
    lines = _recipe(command) if command.startswith("make ") else [command]
    for line in lines:
        offers(line.replace(".venv/bin/python", "python"))


def _renders_for_that_registry(command: str) -> None:
    given = dict(re.findall(r"(\w+)=(\S+)", command))
    folder = targets.choose(given, name="demo").overlay()
    assert f"newName: {given['IMAGE']}-worker" in (folder / "kustomization.yaml").read_text()
    assert _recipe(command) == [".venv/bin/python -m e2e.demo up"]


def _is_run_by_the_tests_of_the_demo(command: str) -> None:
    assert command in (DEMO, DEMO_DOWN)


def _is_typed_by_a_soak_test(command: str) -> None:
    """It imports transformers, which takes long: `tests/local/test_exports.py` types the page."""
    text = (ROOT / "tests" / "local" / "test_exports.py").read_text()
    assert '"docs" / "exports.md"' in text
    assert "pytest.mark.soak" in text
    assert command in (ROOT / "docs" / "exports.md").read_text()


def _removes_what_there_is(command: str) -> None:
    """`tests/manifests/test_uninstall.py` deletes the same objects; by its words this deletes what exists."""
    names = command.split()
    if names[2] == "-k":
        assert (ROOT / names[3] / "kustomization.yaml").is_file()
    elif names[2] == "crd":
        crds = [yaml.safe_load(file.read_text()) for file in (ROOT / "crds").glob("*.yaml")]
        assert sorted(names[3:]) == sorted(each["metadata"]["name"] for each in crds if each["kind"].startswith("Cust"))
    else:
        assert f"name: {names[3]}\n" in (ROOT / "manifests" / "base" / "namespaces.yaml").read_text()


_UNINSTALLS = (
    "kubectl delete -k manifests/overlays/example",
    "kubectl delete crd modeldeployments.batchwright.dev inferencejobs.batchwright.dev "
    "acceleratorprofiles.batchwright.dev",
    "kubectl delete namespace batchwright-system",
)
_EXPORTS = (
    "MODEL=$(python -c \"from examples.embeddings.prepare import package; print(package() / 'model')\")",
    "python -m examples.exports.texts $MODEL build/exported/vectors",
    "batchwright-worker serve -f examples/exports/deployment.yaml --volume models=build/exported",
    """curl localhost:8000/v1/embeddings -d '{"model": "vectors", "input": ["A cat sat on a mat."]}'""",
)
NOT_RUN: dict[str, NotRun] = {
    **{
        command: NotRun(why="imports transformers: a soak test types it", check=_is_typed_by_a_soak_test)
        for command in _EXPORTS
    },
    "make demo": NotRun(why="tests/e2e types it, once for all its scenarios", check=_is_run_by_the_tests_of_the_demo),
    "make demo-down": NotRun(why="tests/e2e types it at its end", check=_is_run_by_the_tests_of_the_demo),
    "make demo CLUSTER=current IMAGE=registry.example/batchwright": NotRun(
        why="needs a registry and a cluster of the reader's", check=_renders_for_that_registry
    ),
    **{
        command: NotRun(why="removes what other pages' commands use: a soak test does it", check=_removes_what_there_is)
        for command in _UNINSTALLS
    },
    "make install": NotRun(why="is the first step of what CI runs, in a fresh clone", check=_begins_what_ci_runs),
    "make test": NotRun(why="is what runs this test", check=_is_what_ci_runs),
    "make check": NotRun(why="is a part of what runs this test", check=_is_a_part_of_the_suite),
    "make soak": NotRun(why="takes an hour", check=_has_marks_that_exist),
    "make bench": NotRun(why="takes 45 minutes of a quiet machine", check=_knows_its_options),
    "python -m e2e.bench serving --quick": NotRun(why="takes minutes of a quiet machine", check=_knows_its_options),
    "python -m e2e.bench serving --only steady,overload --json out.json": NotRun(
        why="takes minutes of a quiet machine", check=_knows_its_options
    ),
}


WALKED = ("docs/tutorials/first-cluster.md",)
"""Pages whose blocks go on where the one before ended: `test_newcomers_walk.py` types each as a whole."""


def runnable(block: Block) -> list[str]:
    """The commands of a block that a test types."""
    return [line for line in block.lines if line not in NOT_RUN]


def needs(block: Block) -> str:
    """What the block runs against: "cluster", "apiserver", or "" for a copy of the repository alone."""
    lines = runnable(block)
    if any("-m e2e.cluster up" in line for line in lines):
        return "cluster"
    return "apiserver" if any(line.startswith("kubectl ") or "-m apiserver" in line for line in lines) else ""


def script(blocks: list[Block]) -> str:
    """What bash is given: the blocks in order, as they are written. A server keeps its terminal, so it runs beside what
    follows: until another one begins, or a block that does not call it."""
    parts = ["set -eo pipefail", "server="]
    for block in blocks:
        lines = runnable(block)
        if lines and not lines[0].startswith("curl "):
            parts.append(_STOP)
        for line in lines:
            parts.append(f"printf '$ %s\\n' {_quoted(line)}")
            served = [_STOP, f"{line} >server.log 2>&1 &", _AWAIT]
            parts += served if line.startswith(SERVER) else [f"{{ {line}", "} || exit 1"]  # -e lets `a && b` fail
    return "\n".join([*parts, _STOP])


_STOP = 'if [ "$server" ]; then kill $server; wait $server || exit 1; server=; fi'
_AWAIT = """server=$!
until grep -q ^ready server.log; do kill -0 $server || { cat server.log; exit 1; }; sleep 0.05; done"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def offers(command: str) -> None:
    """Asserts that the help of a command names all options that are given to it."""
    words = command.split()
    programs = next((n for n, word in enumerate(words) if word.startswith("--") or not _plain(word)), len(words))
    wanted = [word.partition("=")[0] for word in words[programs:] if word.startswith("--") and word != "--help"]
    module = words[0] == "python"
    assert not module or _exists(words[2]), command
    if wanted or not module:
        said = _help(words[:programs])
        assert [option for option in wanted if not re.search(rf"{option}\b", said)] == [], said


def _plain(word: str) -> bool:
    return bool(re.fullmatch(r"[a-z0-9.-]+|-m", word))


def _exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def _help(words: list[str]) -> str:
    program = {"python": sys.executable, "kubectl": str(Path(sys.executable).with_name("kubectl-batchwright"))}
    rest = words[2:] if words[:2] == ["kubectl", "batchwright"] else words[1:]
    own = Path(sys.executable).with_name(words[0])
    done = subprocess.run(
        [program.get(words[0], str(own)), *rest, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _recipe(command: str) -> list[str]:
    """What make would run, without what it would say or do to the environment."""
    argv = command.split()
    silent = [argv[0], "-n", "-o", ".venv/.installed", *argv[1:]]
    # `make test` runs this: a make within a make says where it is.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(silent, cwd=ROOT, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.strip() for line in done.stdout.splitlines() if "e2e.outlook" not in line]
