"""Groups of commands whose modules are imported only when one of them is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

__all__ = ["Role", "RoleGroup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Where a subcommand lives (`module:attribute`) and its one line of help."""

    target: str
    help: str


class RoleGroup(click.Group):
    """A group whose subcommands are imported on use; its help imports none of them."""

    def __init__(self, *args: Any, roles: Mapping[str, Role], extra: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.roles = roles
        self.extra = extra
        """Of the distribution, with what the roles import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the roles."""
        return list(self.roles)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The imported subcommand, or None for an unknown name (click then says which exist)."""
        role = self.roles.get(cmd_name)
        if role is None:
            return None
        module, attribute = role.target.split(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package == module.partition(".")[0]:
                raise
            raise click.ClickException(
                f"{cmd_name} needs the package {package}, which is not installed: "
                f"pip install 'batchwright[{self.extra}]'"
            ) from error
        assert isinstance(command, click.Command), f"{role.target} is no click command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of roles, from their own lines of help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, role.help) for name, role in self.roles.items()])
