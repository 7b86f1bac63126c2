"""`kubectl batchwright`: why things are where they are, what would happen, how busy the processors are."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from batchwright_operator.errors import OperatorError
from batchwright_operator.kube.objects import Resource
from batchwright_operator.plugin.completion import COMPLETE_VAR, completion, names_of, proposals
from batchwright_operator.plugin.dashboard import dashboard
from batchwright_operator.plugin.decisions import decisions
from batchwright_operator.plugin.history import history, restart, rollback
from batchwright_operator.plugin.planned import plan_command
from batchwright_operator.plugin.retry import retry
from batchwright_operator.plugin.status import status
from batchwright_operator.plugin.target import ClusterTarget
from batchwright_operator.plugin.top import bench, top
from batchwright_operator.plugin.why import why

NAMESPACE = Resource(group="", version="v1", kind="Namespace", plural="namespaces", namespaced=False)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=EXISTING_FILE)
@click.option("--context")
@click.option(
    "-n",
    "--namespace",
    default="",
    shell_complete=names_of(NAMESPACE),
    help="Of pods and ModelDeployments; default: the context's.",
)
@click.option("--system", default="batchwright-system", show_default=True, help="Namespace of the operator.")
@click.pass_context
def cli(found: click.Context, kubeconfig: Path | None, context: str | None, namespace: str, system: str) -> None:
    """Look into Batchwright, and go back to what ran before."""
    found.obj = ClusterTarget(kubeconfig=kubeconfig, context=context, asked=namespace, system=system)


COMMANDS = (
    status, dashboard, why, decisions, plan_command, top, bench, history, rollback, restart, retry, completion,
)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """The entry point; errors of the operator's code are printed in one line, without a traceback."""
    try:
        cli(prog_name="kubectl batchwright", complete_var=COMPLETE_VAR)
    except OperatorError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def complete_for_kubectl() -> None:
    """The entry point `kubectl_complete-batchwright`, by which kubectl completes `kubectl batchwright`."""
    click.echo("\n".join(proposals(cli, sys.argv[1:])))


if __name__ == "__main__":
    main()
