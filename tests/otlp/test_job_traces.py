"""A job from its plan to its commit in one trace, the requests to its models included; a benchmark and its steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from batchwright_worker.otlp.trace_ids import ids_of
from tests.runner.bench import Bench, cpu, model
from tests.runner.serving_rig import deployment, replica
from tests.sidecar.collector import Collector, Received

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def worker(variables: dict[str, str], *arguments: str) -> None:
    path = os.pathsep.join([*sys.path, str(ROOT / "tests/runner/functions")])
    done = subprocess.run(
        [sys.executable, "-m", "batchwright_worker", *arguments],
        env={**os.environ, **variables, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def below(spans: list[Received], span: Received) -> set[str]:
    """Names of all that is in it."""
    inner = [each for each in spans if each.parent == span.span]
    return {each.name for each in inner}.union(*(below(spans, each) for each in inner))


async def test_pods_of_a_job_and_the_replicas_that_they_ask_are_one_trace(
    collector: Collector, environ: dict[str, str], tmp_path: Path
) -> None:
    tasks = (cpu("row", "sample_functions:one_row"), model("m", "emu", "m", "row"))
    async with replica(deployment()) as here:
        job = Bench(tmp_path, tasks, shard_size=20, endpoints={"emu": f"{here.host}:{here.http}"})
        job.write_records([{"v": number, "n": 1} for number in range(40)])
        (tmp_path / "job.json").write_bytes(msgspec.json.encode(job.config()))
        common = ["--job", str(tmp_path / "job.json"), "--termination-log", str(tmp_path / "log")]
        worker(environ, "runner", "plan", *common)
        for number in range(2):
            worker(environ, "runner", "run", *common, "--shard", str(number), "--token-file", str(tmp_path / "none"))
        worker(environ, "runner", "commit", *common)
    ids = ids_of("u")
    spans = [each for each in collector.spans if each.trace == f"{ids.trace:032x}"]
    steps = {each.name: each for each in spans if each.parent == f"{ids.span:016x}"}
    assert steps.keys() == {"plan", "shard 0", "shard 1", "commit"}
    assert {each.service for each in steps.values()} == {"batchwright-job"}
    assert (steps["plan"].attributes["batchwright.items"], steps["plan"].attributes["batchwright.shards"]) == (40, 2)
    assert steps["shard 1"].attributes["batchwright.succeeded"] == 20
    assert steps["commit"].attributes["batchwright.failed"] == 0
    for number in range(2):
        assert below(spans, steps[f"shard {number}"]) >= {"infer m", "queue", "execute", "batch", "runtime"}
    assert {each.service for each in spans if each.name == "infer m"} == {"emu"}


def test_a_job_on_this_machine_is_one_trace(collector: Collector, variables: dict[str, str], tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "examples/own-model/make_model.py")], check=True)
    trace = "c" * 32
    worker(
        {**variables, "TRACEPARENT": f"00-{trace}-{'d' * 16}-01"}, "run",
        "-f", "examples/own-model/job.yaml", "-f", "examples/own-model/deployment.yaml",
        "--volume", "data=examples/own-model", "--volume", "models=examples/own-model",
        "--volume", f"results={tmp_path}",
    )  # fmt: skip
    spans = [each for each in collector.spans if each.trace == trace]
    (root,) = [each for each in spans if each.parent == "d" * 16]
    assert root.name == "InferenceJob"
    assert below(spans, root) >= {"plan", "shard 0", "commit", "infer scorer", "runtime"}


def test_a_benchmark_is_a_span_with_its_steps(collector: Collector, variables: dict[str, str]) -> None:
    device = '{"fixedMicroseconds": 100, "perRowMicroseconds": 50, "memoryBytes": 1000000000}'
    environment = {**variables, "BATCHWRIGHT_EMULATED_DEVICE": device}
    worker(environment, "benchmark", "--kind", "batchwright.dev/emulated", "--budget-seconds", "1")
    (root,) = [each for each in collector.spans if each.name == "benchmark"]
    assert root.attributes["batchwright.kind"] == "batchwright.dev/emulated"
    assert root.attributes["batchwright.images_per_second"] > 0
    steps = [each.attributes["batchwright.step"] for each in collector.spans if each.parent == root.span]
    assert any(line.startswith("batch 1: ") for line in steps)
