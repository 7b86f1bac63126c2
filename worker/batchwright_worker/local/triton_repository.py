"""`batchwright-worker repository`: a Triton model repository as the ModelDeployment that serves it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import quote

import click
import yaml

from batchwright_worker.api.documents import ManifestError, validate
from batchwright_worker.api.uris import OF_PATHS, file_uri, split_uri
from batchwright_worker.artifacts.triton.repository import read_repository


def uris_below(base: str, path: PurePosixPath) -> str:
    """The address of a path below that of the repository; percent signs are put only into addresses of paths."""
    rest = quote(str(path)) if split_uri(base).scheme in OF_PATHS else str(path)
    return f"{base.rstrip('/')}/{rest}"


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker repository models --uri pvc://models > deployment.yaml\n\n"
    "Exit status: 0; 1 with model and field of what cannot be kept; 2 for a wrong command line.",
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--uri", default=None, help="Where pods find it: pvc://CLAIM/PATH, s3://BUCKET/KEY, ..; default: here.")
@click.option("--accelerator", default=None, help="The kind that it is to be served on; default: cpu.")
@click.option("--load-model", "chosen", multiple=True, help="Only this model; may be given several times.")
@click.option("--name", default=None, help="Name of the ModelDeployment; default: the folder's.")
def command(folder: Path, uri: str | None, accelerator: str | None, chosen: tuple[str, ...], name: str | None) -> None:
    """Print the ModelDeployment that serves the Triton model repository in FOLDER."""
    base = uri or file_uri(folder.absolute())
    try:
        found = read_repository(folder, lambda path: uris_below(base, path), accelerator, chosen)
    except ManifestError as error:
        raise click.ClickException(str(error)) from error
    if name is not None:
        found.document["metadata"]["name"] = name
    if problems := [problem for problem in validate(found.document) if "file://" not in str(problem)]:
        raise click.ClickException("\n".join(str(problem) for problem in problems))
    for note in found.notes:
        click.echo(f"# {note}")
    click.echo(yaml.safe_dump(found.document, sort_keys=False, allow_unicode=True, width=120), nl=False)
