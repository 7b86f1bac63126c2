"""`batchwright-worker run`: an InferenceJob on this machine, without a cluster: same code, same manifests.

Exit status: 0 all items succeeded; 3 the data set is whole, some items failed (with --plan: some of those tried); 1 it
is not whole, and the same command may help; 42 (as of a runner) it is not, and something must be changed first; 2 wrong
arguments; 130 after SIGINT, 143 after SIGTERM or SIGHUP: what is done stays, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from batchwright_worker.api.names import EXIT_FAILED_ITEMS, EXIT_PERMANENT
from batchwright_worker.local.serve import volume
from batchwright_worker.local.weights import cache_bytes_option, cache_option, local_cache

if TYPE_CHECKING:
    from batchwright_worker.local.job_summary import LocalResult
    from batchwright_worker.local.local_job import LocalJob
    from batchwright_worker.local.preview_report import Preview
    from batchwright_worker.runner.storage.plan_file import Selection

EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143
GOES_ON: Final = "stopped; complete shards stay, the same command goes on from there"


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker run -f job.yaml -f deployment.yaml --volume data=. --volume results=out\n"
    "  batchwright-worker run -f job.yaml -f deployment.yaml --plan\n"
    "  batchwright-worker run -f job.yaml -f deployment.yaml --limit 100 --dashboard\n",
)
@click.option(
    "-f", "--filename", "paths", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Manifests: the InferenceJob, the ModelDeployments that it names, ConfigMaps of its functions.",
)  # fmt: skip
@click.option("--name", default=None, help="Which InferenceJob, if the files hold several.")
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    callback=volume,
    help="CLAIM=FOLDER or IMAGE=FOLDER: where its files are here.",
)
@click.option(
    "--functions", "folders", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with the modules of the tasks. The folders of the manifests are searched anyway.",
)  # fmt: skip
@click.option("--accelerator", default=None, help="Which kind of artifact; default: cpu, else emulated.")
@click.option("--overwrite", is_flag=True, help="Remove results of other jobs, input, code or models that lie there.")
@click.option(
    "--retry-failed", is_flag=True,
    help="Run the failed items of a complete output again, and put their results where they belong.",
)  # fmt: skip
@click.option("--output", default=None, help="Folder or address for the results, instead of spec.output.uri.")
@click.option(
    "--plan", "plan_only", is_flag=True,
    help="Only say what would be done: check everything, run the first items and show their results, estimate time and "
    "size. Nothing is written.",
)  # fmt: skip
@click.option(
    "--limit", type=click.IntRange(1), default=None,
    help="Only the first items, into a folder of their own: --output, else the output's name with -limit-N.",
)  # fmt: skip
@click.option(
    "--sample", type=click.IntRange(1), default=None,
    help="Only so many items by chance, into a folder of their own (-sample-N-seed-S).",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which items --sample takes.")
@cache_option
@cache_bytes_option
@click.option("--dashboard", is_flag=True, help="Show the run live on a page; its address is printed.")
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def command(  # noqa: PLR0913, PLR0917 - the command line
    paths: tuple[Path, ...],
    name: str | None,
    volumes: dict[str, Path],
    folders: tuple[Path, ...],
    accelerator: str | None,
    overwrite: bool,
    retry_failed: bool,
    output: str | None,
    plan_only: bool,
    limit: int | None,
    sample: int | None,
    seed: int,
    cache_folder: Path | None,
    cache_bytes: int,
    dashboard: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run an InferenceJob here: plan, shards, commit. A job whose output is complete is not run again.

    Exit status: 0 all items succeeded; 3 complete, but some items failed; 1 failed, the same command may help; 42
    failed, change something first; 2 wrong arguments; 130, 143 interrupted, the same command goes on.
    """
    import json

    from batchwright_worker.api.documents import load_manifests
    from batchwright_worker.local.local_job import LocalJob
    from batchwright_worker.local.own_folders import own_temporary_files

    if limit is not None and sample is not None:
        raise click.UsageError("--limit and --sample exclude each other")
    if retry_failed and (overwrite or plan_only):
        raise click.UsageError("--retry-failed goes with neither --overwrite nor --plan")
    searched = tuple(str(folder.resolve()) for folder in (*folders, *(_folder(path) for path in paths)))

    def job() -> LocalJob:
        return LocalJob(
            documents=load_manifests(paths),
            name=name,
            volumes=volumes,
            folders=searched,
            accelerator=accelerator,
            overwrite=overwrite,
            retry_failed=retry_failed,
            output=output,
            selection=_selection(limit, sample, seed),
            cache=local_cache(cache_folder, cache_bytes),
        )

    with own_temporary_files():
        result = _ran(job, plan_only=plan_only, show_progress=not quiet, as_json=as_json, dashboard=dashboard)
    click.echo(json.dumps(result.as_json()) if as_json else result.as_text())
    if result.failed:
        sys.exit(EXIT_FAILED_ITEMS)


def _ran(
    make: Callable[[], LocalJob], *, plan_only: bool, show_progress: bool, as_json: bool, dashboard: bool
) -> LocalResult | Preview:
    """The job, planned or run; ends the process where it cannot be."""
    import asyncio

    from batchwright_worker.api.documents import ManifestError
    from batchwright_worker.local.jobrun import run_job
    from batchwright_worker.local.preview import preview
    from batchwright_worker.local.processes import LocalFailed
    from batchwright_worker.runner.errors import StepFailed

    try:
        with _own_standard_output():
            local = make()
            if plan_only:
                return asyncio.run(preview(local))
            if dashboard:
                return asyncio.run(_on_a_board(local, show_progress=show_progress))
            return asyncio.run(run_job(local, show_progress=show_progress))
    except ManifestError as error:
        _end("InvalidManifest", str(error), EXIT_PERMANENT, as_json=as_json)
    except LocalFailed as error:
        _end("LocalFailed", str(error), 1, as_json=as_json)
    except StepFailed as error:
        _end(error.reason, str(error), EXIT_PERMANENT if error.permanent else 1, as_json=as_json)
    except asyncio.CancelledError:
        _end("Terminated", GOES_ON, EXIT_TERMINATED, as_json=as_json)
    except KeyboardInterrupt:
        _end("Interrupted", GOES_ON, EXIT_INTERRUPTED, as_json=as_json)


@contextlib.contextmanager
def _own_standard_output() -> Iterator[None]:
    """Standard output is the summary's alone: what functions and models print, here and in the processes that are
    started here, goes to standard error."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)


async def _on_a_board(local: LocalJob, *, show_progress: bool) -> LocalResult:
    from batchwright_worker.local.board import Board
    from batchwright_worker.local.jobrun import run_job

    board = Board(local.name or "run")
    async with board.open():
        return await run_job(local, show_progress=show_progress, board=board)


def _selection(limit: int | None, sample: int | None, seed: int) -> Selection | None:
    from batchwright_worker.runner.storage.plan_file import Selection

    if limit is not None:
        return Selection(kind="Limit", items=limit)
    return Selection(kind="Sample", items=sample, seed=seed) if sample is not None else None


def _end(reason: str, message: str, status: int, *, as_json: bool) -> NoReturn:
    """Say why there is no whole data set."""
    import json

    if as_json:
        click.echo(json.dumps({"reason": reason, "error": message}))
    click.echo(f"Error: {reason}: {message}", err=True)
    sys.exit(status)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
