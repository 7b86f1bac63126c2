"""`batchwright-worker run`: an InferenceJob on this machine, without a cluster: same code, same manifests."""

from __future__ import annotations

from pathlib import Path

import click

from batchwright_worker.local.serve import volume


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
@click.option("--quiet", is_flag=True, help="No progress bar.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def command(  # noqa: PLR0913, PLR0917 - the command line
    paths: tuple[Path, ...],
    name: str | None,
    volumes: dict[str, Path],
    folders: tuple[Path, ...],
    accelerator: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run an InferenceJob here: plan, shards, commit. A job whose output is complete is not run again."""
    import asyncio
    import json

    from batchwright_worker.api.documents import ManifestError, load_manifests
    from batchwright_worker.local.jobrun import LocalJob, run_job
    from batchwright_worker.local.processes import LocalFailed
    from batchwright_worker.runner.errors import StepFailed

    searched = tuple(str(folder.resolve()) for folder in (*folders, *(_folder(path) for path in paths)))
    try:
        job = LocalJob(
            documents=load_manifests(paths), name=name, volumes=volumes, folders=searched, accelerator=accelerator
        )
        result = asyncio.run(run_job(job, show_progress=not (quiet or as_json)))
    except (ManifestError, LocalFailed) as error:
        raise click.ClickException(str(error)) from error
    except StepFailed as error:
        raise click.ClickException(f"{error.reason}: {error}") from error
    click.echo(json.dumps(result.as_json()) if as_json else result.as_text())


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
