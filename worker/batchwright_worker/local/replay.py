"""`batchwright-worker replay`: does the scheduler decide as a dispatch log says that it did?"""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker serve -f deployment.yaml --dispatch-log log\n"
    "  batchwright-worker replay log\n\n"
    "Exit status: 0 every decision is the same; 1 at the first that is not; 2 for a wrong command line.",
)
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def command(path: Path) -> None:
    """Run the scheduler over a log of `serve --dispatch-log` (or of a sidecar). Ends with 1 at the first decision that
    is another one, which it shows."""
    from rich.console import Console
    from rich.table import Table

    from batchwright_worker.dispatch_log.calls import BadLineError
    from batchwright_worker.dispatch_log.replay import COLUMNS, replay, table

    try:
        with path.open("rb") as lines:
            found = replay(lines)
    except BadLineError as error:
        raise click.ClickException(f"{path}: {error}") from error
    shown = Table(*COLUMNS, title=f"{path.name}: {found.calls} calls in {found.seconds:.1f} s", title_justify="left")
    for row in table(found.models):
        shown.add_row(*row)
    Console(width=160).print(shown)
    if found.difference is None:
        click.echo(f"the scheduler took the same {found.decisions} decisions")
        return
    first = found.difference
    raise click.ClickException(
        f"line {first.line}, {first.t:.6f} s after the start: {first.call} gave\n"
        f"  then {json.dumps(first.logged)}\n  now  {json.dumps(first.now)}\n"
        f"after {found.decisions - 1} decisions that are the same (the log is of version {found.version})"
    )
