"""`batchwright-operator`: its help needs nothing that the extra `operator` installs."""

from __future__ import annotations

import sys
from typing import Final

import click

from batchwright_worker.roles import Role, RoleGroup

ROLES: Final = {
    "run": Role(target="batchwright_operator.process.command:run", help="Run the operator until SIGTERM."),
}


@click.group(cls=RoleGroup, roles=ROLES, extra="operator", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchwright")
def main() -> None:
    """Batchwright's operator: places models where they run well, tunes their batches, runs inference jobs."""


if __name__ == "__main__":
    sys.exit(main())
