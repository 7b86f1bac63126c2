"""`python -m e2e.tryout`: what `make try` runs.

Prepares the OCR example's networks and pages (examples/ocr), takes the pages through them with the very functions of
`batchwright-worker run`, compares the text that was read with the text that was rendered, and says where to look.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchwright_worker.api.documents import load_manifests
from batchwright_worker.local.board import Board
from batchwright_worker.local.job_summary import LocalResult
from batchwright_worker.local.jobrun import run_job
from batchwright_worker.local.local_job import LocalJob
from batchwright_worker.local.processes import LocalFailed
from batchwright_worker.runner.errors import StepFailed

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ocr"
MANIFESTS = (EXAMPLE / "job" / "job.yaml", EXAMPLE / "serve" / "deployment.yaml")
SHOWN_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `report.json` holds (camelCase there): of the run, how well the pages were read, and all seconds."""

    pages: int
    pages_per_second: float
    character_accuracy: float
    mean_batch_sizes: Mapping[str, float]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "pages": self.pages,
            "pagesPerSecond": self.pages_per_second,
            "characterAccuracy": self.character_accuracy,
            "meanBatchSizes": dict(self.mean_batch_sizes),
            "seconds": self.seconds,
        }


def main() -> None:
    """Prepare, run, compare, tell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "try", help="where everything is written")
    parser.add_argument("--pages", type=int, default=12, help="how many pages are rendered and read")
    args = parser.parse_args()
    started = time.monotonic()
    folder: Path = args.folder
    say(f"== rendering {args.pages} pages of known text, and two networks from PyPI's rapidocr-onnxruntime")
    _prepare(folder, args.pages)
    say("== reading them: pages -> detect -> crop -> recognize -> text (examples/ocr/job/job.yaml)")
    result = _run(folder)
    say(result.as_text())
    evaluation = _evaluation(folder)
    report = Report(
        pages=evaluation["pages"],
        pages_per_second=round(result.manifest.items / result.run_s, 3),
        character_accuracy=evaluation["characterAccuracy"],
        mean_batch_sizes={task.name: task.mean_batch_size for task in result.tasks if task.rows},
        seconds=round(time.monotonic() - started, 1),
    )
    (folder / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    say(as_text(report, folder))


def say(text: str) -> None:
    """One line to the user, at once."""
    print(text, flush=True)


def _prepare(folder: Path, pages: int) -> None:
    """Networks and pages, those of a run before kept if they are as many; no results."""
    kept = folder / "data" / "pages"
    if kept.exists() and len(list(kept.glob("*.png"))) != pages:
        shutil.rmtree(kept)
    shutil.rmtree(folder / "data" / "results", ignore_errors=True)
    command = [sys.executable, str(EXAMPLE / "data" / "prepare.py"), "--models", str(folder / "models")]
    subprocess.run([*command, "--pages", str(kept), "--count", str(pages)], check=True, stdout=subprocess.DEVNULL)


def _run(folder: Path) -> LocalResult:
    job = LocalJob(
        documents=load_manifests(MANIFESTS),
        name=None,
        volumes={"ocr-models": folder / "models", "ocr-data": folder / "data"},
        folders=(str(EXAMPLE / "job"),),
    )
    try:
        return asyncio.run(_on_a_board(job, folder / "page.html"))
    except (LocalFailed, StepFailed) as error:
        sys.exit(f"try: {error}")


async def _on_a_board(job: LocalJob, page: Path) -> LocalResult:
    """As `batchwright-worker run --dashboard`; the page stays as a file."""
    board = Board("make try")
    async with board.open():
        result = await run_job(job, show_progress=True, board=board)
    board.save(page)
    return result


def _evaluation(folder: Path) -> dict[str, Any]:
    """What the example's own evaluation says, as on a cluster."""
    command = [sys.executable, str(EXAMPLE / "evaluate" / "evaluate.py"), "--results", str(folder / "data" / "results")]
    command += ["--truth", str(folder / "data" / "truth.jsonl")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    evaluation: dict[str, Any] = json.loads(said.splitlines()[-1])
    return evaluation


def as_text(report: Report, folder: Path) -> str:
    """The report in words, some of what was read, and where to look."""
    first = min((folder / "data" / "results").glob("part-*.jsonl"))
    record = json.loads(first.read_text().splitlines()[0])
    batches = ", ".join(f"{task} {size:g}" for task, size in report.mean_batch_sizes.items())
    shown = [_from_here(path) for path in _looked_at(folder, record["id"], first)]
    lines = [
        "",
        "Report",
        f"  pages               {report.pages}",
        f"  pages per second    {report.pages_per_second:.2f}",
        f"  character accuracy  {report.character_accuracy:.2%}",
        f"  mean batch sizes    {batches}",
        "",
        f"Read from {record['id']}:",
        *(f"  {line}" for line in record["text"]["lines"][:SHOWN_LINES]),
        "  ..",
        "",
        "Look further:",
        f"  {shown[0]}   the run as a page: open it in a browser",
        f"  {shown[1]}   what was read from",
        f"  {shown[2]}   what was read, one page a line",
        f"  {shown[3]}   this report",
        "",
        "The job by itself, for manifests and data of your own (--help lists the options):",
        f"  {_from_here(Path(sys.executable).with_name('batchwright-worker'))} run \\",
        f"    -f {_from_here(MANIFESTS[0])} -f {_from_here(MANIFESTS[1])} \\",
        f"    --volume ocr-models={_from_here(folder / 'models')} --volume ocr-data={_from_here(folder / 'data')}",
        "",
        f"Done in {report.seconds:.0f} s. On a cluster of two unequal nodes: make demo",
    ]
    return "\n".join(lines)


def _looked_at(folder: Path, page: str, part: Path) -> list[Path]:
    return [folder / "page.html", folder / "data" / "pages" / page, part, folder / "report.json"]


def _from_here(path: Path) -> str:
    """As the user would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    main()
