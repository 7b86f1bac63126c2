"""`kubectl batchwright`: why things are where they are, what would happen, how busy the processors are."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

import click

from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_operator.errors import Forbidden, NotServed, OperatorError, Unauthorized
from batchwright_operator.kube.objects import Resource
from batchwright_operator.plugin.arguments import OBJECT_NAME
from batchwright_operator.plugin.completion import COMPLETE_VAR, completion, names_of, proposals
from batchwright_operator.plugin.dashboard import dashboard
from batchwright_operator.plugin.decisions import decisions
from batchwright_operator.plugin.history import history, restart, rollback
from batchwright_operator.plugin.output import one_line
from batchwright_operator.plugin.planned import plan_command
from batchwright_operator.plugin.retry import retry
from batchwright_operator.plugin.status import status
from batchwright_operator.plugin.target import ClusterTarget
from batchwright_operator.plugin.top import bench, top
from batchwright_operator.plugin.why import why

NAMESPACE = Resource(group="", version="v1", kind="Namespace", plural="namespaces", namespaced=False)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Plugin(click.Group):
    """What the operator's code and the API server refuse is told in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """As click does."""
        try:
            return super().invoke(ctx)
        except (OperatorError, InvalidSpec) as error:
            raise click.ClickException(one_line(told(error))) from error


def told(error: Exception) -> str:
    """The error's own words, and what a user does next where they do not say it."""
    text = str(error)
    if isinstance(error, NotServed):
        return f"{text or '404'}: the cluster does not serve what was asked for; is Batchwright installed there?"
    if isinstance(error, Unauthorized):
        return f"the cluster does not know your credentials ({text}): log in anew, or name another --context"
    return f"you may not do that: {text}" if isinstance(error, Forbidden) else text


@click.group(cls=Plugin, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=EXISTING_FILE, help="Default: $KUBECONFIG, else ~/.kube/config; in a pod the pod's.")
@click.option("--context", help="Of the kubeconfig; default: its current one.")
@click.option(
    "-n",
    "--namespace",
    type=OBJECT_NAME,
    shell_complete=names_of(NAMESPACE),
    help="Of pods and ModelDeployments; default: the context's.",
)
@click.option(
    "--system", type=OBJECT_NAME, default="batchwright-system", show_default=True, help="Namespace of the operator."
)
@click.version_option(package_name="batchwright")
@click.pass_context
def cli(found: click.Context, kubeconfig: Path | None, context: str | None, namespace: str | None, system: str) -> None:
    """Look into Batchwright, and go back to what ran before.

    \b
    Examples:
      kubectl batchwright status                   what is wrong, and what to do
      kubectl batchwright -n team why recognizer   why its pods are where they are
      kubectl batchwright plan -f model.yaml       where its pods would go
      kubectl batchwright dashboard                all of it as a live page

    Exit status: 0; 1 for what the cluster refuses or does not have; 2 for a wrong command line; 3 from
    `status --exit-code`.
    """
    found.obj = ClusterTarget(kubeconfig=kubeconfig, context=context, asked=namespace or "", system=system)


COMMANDS = (
    status, dashboard, why, decisions, plan_command, top, bench, history, rollback, restart, retry, completion,
)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """The entry point."""
    readable_anywhere()
    cli(prog_name="kubectl batchwright", complete_var=COMPLETE_VAR)


def readable_anywhere() -> None:
    """A terminal whose encoding lacks a sign (✗, …) gets a question mark, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(io.UnsupportedOperation):
                stream.reconfigure(errors="replace")


def complete_for_kubectl() -> None:
    """The entry point `kubectl_complete-batchwright`, by which kubectl completes `kubectl batchwright`."""
    click.echo("\n".join(proposals(cli, sys.argv[1:])))


if __name__ == "__main__":
    main()
