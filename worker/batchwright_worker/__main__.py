"""`batchwright-worker`: one command per role; a role's modules are imported only when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Where a subcommand lives (`module:attribute`) and its one line of help."""

    target: str
    help: str


ROLES: Final = {
    "sidecar": Role(
        target="batchwright_worker.sidecar.command:command",
        help="Serve the models of a pod: protocol, queues, batching (in a model pod).",
    ),
    "runtime": Role(
        target="batchwright_worker.runtime.command:command",
        help="Hold models on one device and run batches (in a model pod).",
    ),
    "runner": Role(
        target="batchwright_worker.runner.command:command",
        help="Plan, run or commit an InferenceJob (in its pods).",
    ),
    "benchmark": Role(
        target="batchwright_worker.benchmark.command:command",
        help="Measure the load table of a processor on this machine.",
    ),
    "agent": Role(
        target="batchwright_worker.agent.command:command",
        help="Export utilization of this node's processors as Prometheus metrics.",
    ),
    "fetch": Role(
        target="batchwright_worker.fetch.command:command",
        help="Download and verify the artifacts of a ModelDeployment.",
    ),
    "serve": Role(
        target="batchwright_worker.local.serve:command",
        help="Run a ModelDeployment on this machine, without a cluster.",
    ),
    "run": Role(
        target="batchwright_worker.local.run:command",
        help="Run an InferenceJob on this machine, without a cluster.",
    ),
}


class RoleGroup(click.Group):
    """A group whose subcommands are imported on use; its help imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of `ROLES`."""
        return list(ROLES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The imported subcommand, or None for an unknown name (click then says which exist)."""
        role = ROLES.get(cmd_name)
        if role is None:
            return None
        module, attribute = role.target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{role.target} is no click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of roles, from `ROLES` alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, role.help) for name, role in ROLES.items()])


@click.group(cls=RoleGroup)
@click.version_option(package_name="batchwright")
def main() -> None:
    """Batchwright's worker: everything that runs beside models, and the same without a cluster."""


if __name__ == "__main__":
    main()
