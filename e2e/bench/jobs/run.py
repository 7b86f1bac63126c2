"""A job over many small items in local mode, beside a script of forty lines, in one run and with the same output.

    python -m e2e.bench.jobs [--items 100000] [--only one,script] [--json FILE] [--strict]

The model is emulated: 1 ms + 0.05 ms a row. `one`: one model task, one shard; `small-shards`: the same in shards of
1,000; `three`: CPU task, model, CPU task; `script`: `e2e/bench/jobs/script.py` beside the same sidecar. CPU is counted
by process, less that of a run over 1,000 items. An output that differs from the others' ends the bench.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from e2e.bench.jobs.figures import DEVICE, JobRun, bars
from e2e.bench.jobs.processes import watched
from e2e.bench.noop.run import running
from e2e.bench.report import Report

CASES = ("script", "one", "small-shards", "three")
_START_ITEMS = 1000
_PARTS = ("runner", "pool", "sidecar", "runtime")
_MODEL = {"name": "best", "model": {"deployment": "bench", "model": "m"}}
_THREE = [
    {"name": "pick", "cpu": {"function": "json-fields", "args": {"fields": ["x"]}}},
    {**_MODEL, "name": "m", "dependsOn": ["pick"]},
    {"name": "best", "dependsOn": ["m"], "cpu": {"function": "json-fields", "args": {"fields": ["y"], "single": True}}},
]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--only", default=",".join(CASES), help="which cases, separated by commas")
    parser.add_argument("--json", type=Path, default=None, help="write everything to this file")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    args = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="batchwright-jobs-bench-") as scratch:
        bench = JobBench(Path(scratch))
        start = bench.job("start", _START_ITEMS)
        runs = {name: bench.case(name, args.items) for name in args.only.split(",")}
    show(report, start, runs)
    for bar in bars(start, runs):
        report.bar(bar)
    met = report.show_bars()
    if args.json is not None:
        report.write(args.json)
    digests = {run.digest for run in runs.values()}
    if len(digests) > 1 or (args.strict and not met):
        raise SystemExit("the outputs differ" if len(digests) > 1 else 1)


class JobBench:
    """Inputs, manifests and outputs in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._deployment = folder / "deployment.yaml"
        self._deployment.write_text(yaml.safe_dump(deployment()))

    def case(self, name: str, items: int) -> JobRun:
        """Run one of CASES."""
        if name == "script":
            return self.script(items)
        tasks = _THREE if name == "three" else [_MODEL]
        return self.job(name, items, tasks=tasks, shard_size=1000 if name == "small-shards" else items)

    def job(
        self, name: str, items: int, *, tasks: list[dict[str, Any]] | None = None, shard_size: int | None = None
    ) -> JobRun:
        """A job by `batchwright-worker run`."""
        source, output = self._input(items), self._folder / f"output-{name}"
        spec = {
            "input": {"uri": source.as_uri(), "format": "jsonl", "shardSize": shard_size or items},
            "output": {"uri": output.as_uri(), "format": "jsonl"},
            "tasks": tasks or [_MODEL],
        }
        manifest = self._folder / f"{name}.yaml"
        document = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "InferenceJob", "metadata": {"name": name}}
        manifest.write_text(yaml.safe_dump({**document, "spec": spec}))
        command = [sys.executable, "-m", "batchwright_worker", "run", "--json"]
        seen = watched([*command, "-f", str(manifest), "-f", str(self._deployment)], self._folder)
        told = json.loads(seen.output.splitlines()[-1])
        if told["succeeded"] != items:
            raise SystemExit(f"{name}: {told['succeeded']} of {items} items succeeded: {told['failures']}")
        return JobRun(
            items=items,
            seconds=told["runSeconds"],
            cpu_s=seen.cpu_s,
            mean_batch=next(iter(told["meanBatchSizes"].values())),
            memory_growth=seen.memory_growth,
            digest=digest_of(sorted(output.glob("part-*.jsonl"))),
        )

    def script(self, items: int) -> JobRun:
        """The script beside `batchwright-worker serve`."""
        source, output = self._input(items), self._folder / "script.jsonl"
        command = [sys.executable, "-m", "batchwright_worker", "serve", "-f", str(self._deployment)]
        with running([*command, "--http", "0", "--grpc", "0"], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            line = server.stdout.readline()
            address = re.search(r"http://[0-9.:]+", line)
            if address is None:
                raise SystemExit(f"serve said {line!r}")
            url = f"{address[0]}/v2/models/m/infer"
            script = [sys.executable, "-m", "e2e.bench.jobs.script", url, str(source), str(output)]
            told = json.loads(watched(script, self._folder).output.splitlines()[-1])
        cpu_s = {"runner": told["cpu"]}
        return JobRun(items=items, seconds=told["seconds"], cpu_s=cpu_s, digest=digest_of([output]))

    def _input(self, items: int) -> Path:
        """Eight numbers an item."""
        path = self._folder / f"input-{items}.jsonl"
        if not path.exists():
            with path.open("w") as lines:
                lines.writelines(_record(number) for number in range(items))
        return path


def deployment() -> dict[str, Any]:
    """The emulated model behind a sidecar."""
    model = {
        "name": "m",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [8]}],
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [1]}],
        "artifacts": [
            {
                "accelerator": "batchwright.dev/emulated",
                "format": "emulated",
                "emulated": {
                    "fixedMicroseconds": round(DEVICE.fixed_ms * 1000),
                    "perRowMicroseconds": round(DEVICE.per_row_ms * 1000),
                },
            }
        ],
        "targets": {"latencyMilliseconds": 100},
    }
    kind = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "bench"}}
    return {**kind, "spec": {"models": [model]}}


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 of all of them, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def show(report: Report, start: JobRun, runs: dict[str, JobRun]) -> None:
    """One row a run."""
    rows = []
    for name, run in runs.items():
        cpu = [run.cpu_us(start if name != "script" else JobRun(items=0, seconds=1), part) for part in _PARTS]
        batch = (f"{run.mean_batch:.1f}", f"{100 * run.idle:.0f} %") if run.mean_batch else ("-", "-")
        shown = (f"{each:.1f}" if each else "-" for each in cpu)
        rows.append((name, f"{run.seconds:.2f}", f"{run.items / run.seconds:,.0f}", *batch, *shown))
    header = ("run", "seconds", "items/s", "mean batch", "device idle", *(f"{part} us/item" for part in _PARTS))
    report.table(f"Jobs of {next(iter(runs.values())).items:,} items", header, rows)


def _record(number: int) -> str:
    values = [round((number * factor % 1009) / 1009, 4) for factor in (1, 3, 7, 11, 19, 31, 53, 97)]
    return json.dumps({"id": f"item-{number}", "x": values}) + "\n"


if __name__ == "__main__":
    main()
