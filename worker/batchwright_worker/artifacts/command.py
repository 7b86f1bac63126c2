"""`batchwright-worker digest`: what `artifacts[].sha256` is to say."""

from __future__ import annotations

from pathlib import Path

import click

from batchwright_worker.api.formats import FORMATS
from batchwright_worker.artifacts.companions import format_of
from batchwright_worker.artifacts.digest import digest_of, lines, sums_of
from batchwright_worker.artifacts.names import ArtifactError


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker digest model.onnx\n"
    "  batchwright-worker digest models/bert --list\n\n"
    "Exit status: 0; 1 with a sentence where it cannot be done; 2 for a wrong command line.",
)
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--format", "format_", type=click.Choice(list(FORMATS)), default=None, help="Of a file; default: by its name."
)
@click.option("--list", "as_list", is_flag=True, help="Every file's SHA-256, as SHA256SUMS has it.")
def command(path: Path, format_: str | None, as_list: bool) -> None:
    """Print the digest of a model: of a file (with those that it names), or of a folder."""
    wanted = format_ or format_of(path)
    try:
        if as_list:
            click.echo(lines(sums_of(path, wanted)), nl=False)
        else:
            click.echo(digest_of(path, wanted))
    except (ArtifactError, OSError) as error:
        raise click.ClickException(str(error)) from error
