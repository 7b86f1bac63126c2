"""OCR in local mode beside RapidOCR page by page: the same pages, the same networks' weights, the same cores.

    python -m e2e.bench.ocr_local [--pages 60] [--rounds 3] [--cores 0,1] [--json FILE]

Both are measured warm (models loaded, one page read), in turn, `rounds` times; the table shows medians. CPU seconds are
those of all processes of a side: on a shared machine they are the steadier number.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ocr"
_RAPIDOCR = """
import json, pathlib, sys, time
from rapidocr_onnxruntime import RapidOCR
pages = sorted(pathlib.Path(sys.argv[1]).glob("*.png"))
engine = RapidOCR()
engine(str(pages[0]))
start, cpu = time.perf_counter(), time.process_time()
lines = {page.name: [line[1] for line in engine(str(page))[0] or []] for page in pages}
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "lines": lines}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round of one side."""

    pages_per_second: float
    cpu_seconds_per_page: float
    character_accuracy: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", default=None, help="CPUs for both sides, e.g. 0,1; default: all")
    parser.add_argument("--json", type=Path, default=None, help="write the rounds to this file")
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    with tempfile.TemporaryDirectory(prefix="batchwright-ocr-bench-") as scratch:
        folder = Path(scratch)
        prepare(folder, args.pages)
        rounds = [(rapidocr(folder), local_mode(folder, number)) for number in range(args.rounds)]
    show(rounds)
    if args.json is not None:
        args.json.write_text(
            json.dumps([{"rapidocr": asdict(a), "batchwright": asdict(b)} for a, b in rounds], indent=1)
        )


def prepare(folder: Path, pages: int) -> None:
    """Networks and pages, as the example makes them."""
    command = [sys.executable, str(EXAMPLE / "data" / "prepare.py"), "--models", str(folder / "models")]
    _output([*command, "--pages", str(folder / "data" / "pages"), "--count", str(pages)])


def rapidocr(folder: Path) -> Measured:
    """RapidOCR with its defaults, one page after the other."""
    told = json.loads(_output([sys.executable, "-c", _RAPIDOCR, str(folder / "data" / "pages")]))
    pages = len(told["lines"])
    return Measured(
        pages_per_second=pages / told["seconds"],
        cpu_seconds_per_page=told["cpu"] / pages,
        character_accuracy=_accuracy(folder, told["lines"]),
    )


def local_mode(folder: Path, number: int) -> Measured:
    """`batchwright-worker run` with the example's manifests; its own clock starts when the models answer."""
    job = folder / f"job-{number}.yaml"
    text = (EXAMPLE / "job" / "job.yaml").read_text().replace("ocr-data/results", f"ocr-data/results-{number}")
    job.write_text(text)
    command = [sys.executable, "-m", "batchwright_worker", "run", "--json", "-f", str(job)]
    command += ["-f", str(EXAMPLE / "serve" / "deployment.yaml"), "--functions", str(EXAMPLE / "job")]
    command += ["--volume", f"ocr-models={folder / 'models'}", "--volume", f"ocr-data={folder / 'data'}"]
    before = os.times()
    told = json.loads(_output(command).splitlines()[-1])
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    evaluate = _evaluate()
    return Measured(
        pages_per_second=told["itemsPerSecond"],
        cpu_seconds_per_page=cpu / told["items"],
        character_accuracy=_accuracy(folder, evaluate.read_results(folder / "data" / f"results-{number}")),
    )


def show(rounds: Sequence[tuple[Measured, Measured]]) -> None:
    """The table, and the ratio of each round."""
    print(f"{'':14}{'pages/s':>9}{'CPU s/page':>12}{'accuracy':>10}")
    for name, side in (("RapidOCR", 0), ("Batchwright", 1)):
        measured = [pair[side] for pair in rounds]
        speed = statistics.median(one.pages_per_second for one in measured)
        cpu = statistics.median(one.cpu_seconds_per_page for one in measured)
        print(f"{name:14}{speed:9.3f}{cpu:12.3f}{measured[0].character_accuracy:10.4f}")
    ratios = [ours.pages_per_second / theirs.pages_per_second for theirs, ours in rounds]
    print(f"ratio of pages/s: median {statistics.median(ratios):.2f} (rounds: {', '.join(f'{r:.2f}' for r in ratios)})")


def _accuracy(folder: Path, lines: dict[str, list[str]]) -> float:
    evaluate = _evaluate()
    truth = {record["id"]: record["lines"] for record in evaluate.records(folder / "data" / "truth.jsonl")}
    return float(evaluate.evaluation(lines, truth)["characterAccuracy"])


def _evaluate() -> Any:
    """The example's evaluate.py, which is in no package."""
    sys.path[:0] = [str(EXAMPLE / "evaluate")]
    return importlib.import_module("evaluate")


def _output(command: Sequence[str]) -> str:
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed after {time.monotonic() - started:.0f} s")
    return done.stdout


if __name__ == "__main__":
    main()
