"""`batchwright-worker status`: what lies in an output folder of a job."""

from __future__ import annotations

import sys
from typing import Final

import click

from batchwright_worker.api.names import EXIT_FAILED_ITEMS, EXIT_PERMANENT

_EXITS: Final = {"Partial": 1, "Running": 1, "Replacing": 1}


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker status results --verify\n"
    "  batchwright-worker status s3://bucket/results --json\n",
)
@click.argument("output")
@click.option("--verify", is_flag=True, help="Read every part and compare its digest; otherwise sizes are compared.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def command(output: str, *, verify: bool, as_json: bool) -> None:
    """Say what lies in OUTPUT, a folder or an address: complete or not, items, failures by reason, models, code.

    Exit status: 0 complete, 3 complete and some items failed, 1 not complete yet, 42 damaged, or no output of a job.
    """
    import json

    from batchwright_worker.local.output_status import output_status
    from batchwright_worker.runner.errors import StepFailed
    from batchwright_worker.runner.storage.locations import locate

    try:
        status = output_status(locate(output), verify=verify)
    except StepFailed as error:
        if as_json:
            click.echo(json.dumps({"reason": error.reason, "error": str(error)}))
        click.echo(f"Error: {error.reason}: {error}", err=True)
        sys.exit(EXIT_PERMANENT)
    click.echo(json.dumps(status.as_json()) if as_json else status.as_text())
    if status.state == "Complete":
        sys.exit(EXIT_FAILED_ITEMS if status.parts.failed else 0)
    sys.exit(_EXITS.get(status.state, EXIT_PERMANENT))
