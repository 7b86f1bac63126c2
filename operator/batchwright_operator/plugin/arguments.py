"""What command lines take besides paths and numbers: names of objects, which become parts of addresses; and
what most of them end with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from batchwright_operator.kube.objects import Resource
from batchwright_operator.plugin.completion import names_of

Command = TypeVar("Command", bound=Callable[..., Any])
EXIT_STATUS: Final = "Exit status: 0; 1 for what the cluster refuses or does not have; 2 for a wrong command line."
"""In the help of a command that asks a cluster about one thing."""
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class ObjectName(click.ParamType[str]):
    """A name that an object may have: a DNS subdomain."""

    name = "name"

    def fits(self, value: str) -> bool:
        """Whether it is one."""
        return _NAME.fullmatch(value) is not None

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself. Fails with a sentence for what no object is called."""
        if not self.fits(value):
            kind, slash, rest = value.partition("/")
            hint = f"; give the name alone: {rest}" if slash and kind and self.fits(rest) else ""
            self.fail(f"{value!r} is no name of an object: lower case letters, digits, '-' and '.'{hint}", param, ctx)
        return value


OBJECT_NAME: Final = ObjectName()


def name_argument(resource: Resource, name: str = "name", *, required: bool = True) -> Callable[[Command], Command]:
    """The argument that names an object of this kind, completed by those that there are."""
    return click.argument(name, type=OBJECT_NAME, required=required, shell_complete=names_of(resource))
