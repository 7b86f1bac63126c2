"""`batchwright-worker run`: an InferenceJob on this machine, without a cluster: same code, same manifests.

Exit status: 0 all items succeeded; 3 the data set is whole, some items failed; 1 it is not whole, and the same command
may help; 42 (as of a runner) it is not, and something must be changed first; 2 wrong arguments; 130 after SIGINT, 143
after SIGTERM: what is done stays, and the same command goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from batchwright_worker.api.names import EXIT_PERMANENT
from batchwright_worker.local.serve import volume

EXIT_FAILED_ITEMS: Final = 3
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143
GOES_ON: Final = "stopped; complete shards stay, the same command goes on from there"


@click.command()
@click.option(
    "-f", "--filename", "paths", multiple=True, required=True, type=click.Path(path_type=Path),
    help="Manifests: the InferenceJob, the ModelDeployments that it names, ConfigMaps of its functions.",
)  # fmt: skip
@click.option("--name", default=None, help="Which InferenceJob, if the files hold several.")
@click.option(
    "--volume", "volumes", multiple=True, callback=volume, help="CLAIM=FOLDER: where a claim's files are here."
)
@click.option(
    "--functions", "folders", multiple=True, type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with the modules of the tasks. The folders of the manifests are searched anyway.",
)  # fmt: skip
@click.option("--accelerator", default=None, help="Which kind of artifact; default: cpu, else emulated.")
@click.option("--overwrite", is_flag=True, help="Remove results of other jobs, input, code or models that lie there.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def command(  # noqa: PLR0913, PLR0917 - the command line
    paths: tuple[Path, ...],
    name: str | None,
    volumes: dict[str, Path],
    folders: tuple[Path, ...],
    accelerator: str | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run an InferenceJob here: plan, shards, commit. A job whose output is complete is not run again.

    Exit status: 0 all items succeeded; 3 complete, but some items failed; 1 failed, the same command may help; 42
    failed, change something first; 2 wrong arguments; 130, 143 interrupted, the same command goes on.
    """
    import asyncio
    import json

    from batchwright_worker.api.documents import ManifestError, load_manifests
    from batchwright_worker.local.jobrun import LocalJob, run_job
    from batchwright_worker.local.processes import LocalFailed
    from batchwright_worker.runner.errors import StepFailed

    searched = tuple(str(folder.resolve()) for folder in (*folders, *(_folder(path) for path in paths)))
    try:
        job = LocalJob(
            documents=load_manifests(paths),
            name=name,
            volumes=volumes,
            folders=searched,
            accelerator=accelerator,
            overwrite=overwrite,
        )
        result = asyncio.run(run_job(job, show_progress=not (quiet or as_json)))
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
    click.echo(json.dumps(result.as_json()) if as_json else result.as_text())
    if result.manifest.failed:
        sys.exit(EXIT_FAILED_ITEMS)


def _end(reason: str, message: str, status: int, *, as_json: bool) -> NoReturn:
    """Say why there is no whole data set."""
    import json

    if as_json:
        click.echo(json.dumps({"reason": reason, "error": message}))
    click.echo(f"Error: {reason}: {message}", err=True)
    sys.exit(status)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
