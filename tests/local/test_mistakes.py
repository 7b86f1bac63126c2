"""What a user gets wrong: each mistake ends with a status, a reason and what to do, never with a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from batchwright_worker.local.run import command
from tests.local.conftest import MakeWorld, World
from tests.runner.serving_rig import deployment

PERMANENT, AGAIN, USAGE = 42, 1, 2
Change = Callable[[World], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """`change` is made to a job that would work; `options` are added to the command."""

    name: str
    words: str
    reason: str = "InvalidManifest"
    status: int = PERMANENT
    change: Change | None = None
    manifest: bytes | None = None
    """Instead of the job's."""
    options: tuple[str, ...] = ()


def task(**cpu: Any) -> Change:
    """The only task is this function."""

    def change(world: World) -> None:
        world.spec["tasks"] = [{"name": "v", "cpu": cpu}]

    return change


def module(text: str, function: str = "f") -> Change:
    """The only task is a function of this module."""

    def change(world: World) -> None:
        (world.folder / "module_of_mistakes.py").write_text(text)
        world.spec["tasks"] = [{"name": "v", "cpu": {"function": f"module_of_mistakes:{function}"}}]

    return change


def field(path: str, value: Any) -> Change:
    """A field of the spec, by dots."""

    def change(world: World) -> None:
        place: Any = world.spec
        *steps, last = path.split(".")
        for step in steps:
            place = place.setdefault(step, {})
        place[last] = value

    return change


def uri(path: str, name: str) -> Change:
    """An address of a file beside the manifest."""

    def change(world: World) -> None:
        field(path, f"{world.folder.as_uri()}/{name}")(world)

    return change


def file(name: str, content: bytes = b"x") -> Change:
    """Something lies beside the manifest."""

    def change(world: World) -> None:
        (world.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (world.folder / name).write_bytes(content)

    return change


def model(document: dict[str, Any] | None, name: str = "m", deployed: str = "emu") -> Change:
    """The only task is a model."""

    def change(world: World) -> None:
        world.documents = [document] if document is not None else []
        world.spec["tasks"] = [{"name": "m", "model": {"deployment": deployed, "model": name}}]

    return change


def onnx(**artifact: Any) -> dict[str, Any]:
    made = deployment()
    made["spec"]["models"][0] = {"name": "m", "artifacts": [{"accelerator": "cpu", "format": "onnx", **artifact}]}
    return made


def both(*changes: Change) -> Change:
    def change(world: World) -> None:
        for each in changes:
            each(world)

    return change


def after_a_run(change: Change) -> Change:
    def act(world: World) -> None:
        assert world.run()[0] == 0
        change(world)

    return act


HEAD: Final = b"apiVersion: batchwright.dev/v1alpha1\nkind: InferenceJob\n"
MISTAKES: Final = (
    # manifests
    Mistake(name="no such file", words="name a readable YAML file", options=("-f", "nowhere.yaml")),
    Mistake(name="no YAML", words="not YAML", manifest=b"a: [1, 2"),
    Mistake(name="a binary file", words="not YAML", manifest=b"\x89PNG\xff\xfe\x00"),
    Mistake(name="a list", words="write apiVersion, kind, metadata, spec", manifest=b"- a\n- b\n"),
    Mistake(name="nothing", words="these files hold 0 InferenceJobs", manifest=b""),
    Mistake(name="no metadata", words="metadata", manifest=HEAD + b"spec: {}\n"),
    Mistake(name="metadata of nothing", words="metadata", manifest=HEAD + b"metadata:\nspec: {}\n"),
    Mistake(name="metadata is a text", words="metadata", manifest=HEAD + b"metadata: j\nspec: {}\n"),
    Mistake(name="no spec", words="spec", manifest=HEAD + b"metadata: {name: j}\n"),
    Mistake(name="spec is a list", words="spec", manifest=HEAD + b"metadata: {name: j}\nspec: [1]\n"),
    Mistake(name="another job's name", words="there is no InferenceJob 'x'", options=("--name", "x")),
    Mistake(name="a field that is none", words="shardsize", change=field("input.shardsize", 4)),
    Mistake(name="a number as text", words="shardSize", change=field("input.shardSize", "many")),
    Mistake(name="a format that is none", words="format", change=field("input.format", "excel")),
    Mistake(name="a claim without a folder", words="--volume data=FOLDER", change=field("input.uri", "pvc://data/x")),
    Mistake(name="a scheme that is none", words="spec.input.uri", change=field("input.uri", "ftp://host/x")),
    Mistake(name="the output is the input", words="the input itself", change=uri("output.uri", "in.jsonl")),
    Mistake(name="a folder without files as -f", words="readable YAML file", options=("-f", "/")),
    # tasks
    Mistake(name="no such built-in", words="is no built-in", reason="InvalidTask", change=task(function="decodee")),
    Mistake(name="no such module", words="put nomodule.py into", reason="InvalidTask",
            change=task(function="nomodule:f")),
    Mistake(name="no such function", words="it has g", reason="InvalidTask",
            change=module("def g(inputs): pass\n")),
    Mistake(name="a syntax error", words="SyntaxError", reason="InvalidTask", change=module("def f(:\n")),
    Mistake(name="a module that exits", words="SystemExit", reason="InvalidTask",
            change=module("import sys\nsys.exit(3)\n")),
    Mistake(name="missing arguments", words="missing a required argument: 'k'", reason="InvalidTask",
            change=module("def f(inputs, k): pass\n")),
    Mistake(name="a missing file of an argument", words="is no file here", reason="InvalidTask",
            change=task(function="tokenize", args={"vocabulary": "nowhere.txt"})),
    Mistake(name="a later task as dependency", words="earlier in the list",
            change=field("tasks", [{"name": "a", "dependsOn": ["b"], "cpu": {"function": "argmax"}}])),
    Mistake(name="all items fail", words="more than half", reason="TooManyFailedItems",
            change=both(lambda world: world.write_items(300, bad=tuple(range(300))), field("input.shardSize", 300))),
    # models
    Mistake(name="a deployment that is not given", words="there is no ModelDeployment 'emu'", change=model(None)),
    Mistake(name="a model that it has not", words="'x'", reason="UnknownModel", change=model(deployment(), "x")),
    Mistake(name="a model file that is not there", words="put it there or correct the address",
            change=model(onnx(uri="file:///nowhere/m.onnx"))),
    Mistake(name="a wrong digest", words="sha256 says",
            change=both(file("m.onnx"), lambda world: model(
                onnx(uri=f"{world.folder.as_uri()}/m.onnx", sha256="0" * 64))(world))),
    Mistake(name="a file that is no model", words="is no usable ONNX model", reason="InvalidModel",
            change=both(file("m.onnx"), lambda world: model(onnx(uri=f"{world.folder.as_uri()}/m.onnx"))(world))),
    Mistake(name="a kind of accelerator without artifact", words="choose --accelerator from",
            change=model(deployment()), options=("--accelerator", "nvidia.com/gpu")),
    # input
    Mistake(name="no input", words="check input.uri", reason="InputNotFound", change=uri("input.uri", "nowhere.jsonl")),
    Mistake(name="a pattern without a match", words="stand for other characters", reason="InputEmpty",
            change=uri("input.uri", "*.nothing")),
    Mistake(name="an empty file", words="no items", reason="InputEmpty", change=file("in.jsonl", b"\n")),
    Mistake(name="no parquet", words="no parquet file", reason="InputInvalid", change=field("input.format", "parquet")),
    Mistake(name="a gzip file that is cut off", words="cut off or damaged", reason="InputInvalid",
            change=file("in.jsonl", b"\x1f\x8b\x08\x00abc")),
    Mistake(name="ids twice", words="make ids unique", reason="DuplicateItemIds",
            change=file("in.jsonl", b'{"id":1}\n{"id":1}\n')),
    Mistake(name="a host that is none", words="check the name", reason="InputNotFound", status=AGAIN,
            change=field("input.uri", "https://nowhere.invalid/x.jsonl")),
    # output
    Mistake(name="the output is a file", words="out", reason="OutputNotWritable", status=AGAIN, change=file("out")),
    Mistake(name="somebody's files in the output", words="does not touch", reason="OutputInUse",
            change=file("out/mine.txt")),
    Mistake(name="another job's output", words="--overwrite", reason="OutputInUse",
            change=after_a_run(task(function="json-fields", args={"fields": ["v"]}))),
    Mistake(name="another input", words="--overwrite", reason="InputChanged",
            change=after_a_run(lambda world: world.write_items(11))),
    Mistake(name="a damaged manifest of the output", words="remove it and run the job again", reason="ManifestDamaged",
            change=after_a_run(file("out/_manifest.json", b"{"))),
    Mistake(name="a damaged plan", words="empty this one", reason="PlanDamaged",
            change=after_a_run(file("out/_batchwright/plan.json", b"{"))),
    # time
    Mistake(name="a deadline that is too short", words="goes on from there", reason="DeadlineExceeded", status=AGAIN,
            change=both(module("import time\ndef f(inputs): time.sleep(9)\n"), field("activeDeadlineSeconds", 1))),
)  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name.replace(" ", "-"))
def test_every_mistake_is_told_without_a_traceback(
    world: MakeWorld, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(3)
    monkeypatch.setitem(sys.modules, "module_of_mistakes", None)
    monkeypatch.delitem(sys.modules, "module_of_mistakes")
    if mistake.change is not None:
        mistake.change(made)
    made.write_manifest()
    if mistake.manifest is not None:
        made.manifest.write_bytes(mistake.manifest)
    first = () if "-f" in mistake.options else ("-f", str(made.manifest))
    result = CliRunner().invoke(command, [*first, "--json", "--quiet", *mistake.options])
    assert isinstance(result.exception, SystemExit), result.exception
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["reason"], result.exit_code) == (mistake.reason, mistake.status), told
    assert mistake.words in told["error"]
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "options",
    [
        ("--limit", "0"),
        ("--sample", "x"),
        ("--volume", "data"),
        ("--functions", "/nowhere"),
        ("--retry-failed", "--plan"),
    ],
)
def test_wrong_arguments_are_usage(world: MakeWorld, options: tuple[str, ...]) -> None:
    status, _ = world(1).text(*options)
    assert status == USAGE


def process(world: World, *options: str) -> subprocess.Popen[str]:
    """The command as users start it."""
    world.write_manifest()
    arguments = [sys.executable, "-m", "batchwright_worker", "run", "-f", str(world.manifest), "--json", *options]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


@pytest.mark.slow
async def test_two_runs_on_one_output_end_well(world: MakeWorld) -> None:
    made = world(40)
    module("import time\ndef f(inputs):\n    time.sleep(0.02)\n    return inputs['item']['data']['v']\n")(made)
    runs = [process(made), process(made)]
    said = await asyncio.gather(*(asyncio.to_thread(run.communicate, timeout=60) for run in runs))
    assert [run.returncode for run in runs] == [0, 0], said
    assert made.values() == list(range(40))
    assert all(json.loads(out)["succeeded"] == 40 for out, _ in said)
    assert not any("Traceback" in err for _, err in said)
    assert sorted(path.name for path in made.output.iterdir() if path.name[0] != "_") == [
        f"part-{number:05d}.jsonl" for number in range(10)
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
def test_a_full_disk_is_told_and_the_same_command_goes_on(world: MakeWorld, tmp_path: Path) -> None:
    made = world(400)
    module("def f(inputs): return 'x' * 10_000\n")(made)
    made.spec |= {"backoffLimitPerShard": 0}
    made.output.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", made.output], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        status, told = made.run("--quiet")
        assert (status, told["reason"]) == (AGAIN, "OutputFull")
        assert "free or enlarge" in told["error"]
        subprocess.run(["mount", "-o", "remount,size=20m", made.output], check=True)
        assert made.run("--quiet")[0] == 0
        assert len(list(made.output.glob("part-*"))) == 100
    finally:
        subprocess.run(["umount", made.output], check=True)
