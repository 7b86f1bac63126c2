"""Every command says what it does, by examples that it would take, what its options are by default, and how it ends."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from batchwright_operator.__main__ import main as operator
from batchwright_operator.plugin.cli import cli as plugin
from batchwright_worker.__main__ import main as worker

PROGRAMS = {"batchwright-worker": worker, "batchwright-operator": operator, "kubectl batchwright": plugin}


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """All below it, by what is typed."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for each in command.list_commands(context):
        found = command.get_command(context, each)
        assert found is not None
        yield from commands(f"{name} {each}", found)


ALL = dict(pair for name, program in PROGRAMS.items() for pair in commands(name, program))


def options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


@pytest.mark.parametrize("name", ALL)
def test_a_command_is_explained(name: str) -> None:
    command = ALL[name]
    said = f"{command.help}\n{command.epilog}"
    assert command.help
    assert "Exit status: " in said
    assert f"Examples:\n  {name.partition(' ')[0]} " in said


def told(option: click.Option) -> bool:
    """Whether its help says what it is when it is not given."""
    silent = option.is_flag or option.multiple or option.required or option.to_info_dict()["default"] in (None, "", 0)
    return silent or bool(option.show_default) or "efault" in (option.help or "")


@pytest.mark.parametrize("name", ALL)
def test_every_option_says_what_it_is_for_and_its_default(name: str) -> None:
    assert [each.opts for each in options(ALL[name]) if not each.help or not told(each)] == []


@pytest.mark.parametrize("name", ALL)
def test_examples_would_be_taken(name: str) -> None:
    """Names of commands and options; whatever they stand for need not be there."""
    lines = [line for line in (ALL[name].epilog or "").splitlines() if line.startswith("  ")]
    assert any(f"{name} ".removeprefix("kubectl batchwright ") in f"{line} " for line in lines)
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        program = next(each for each in PROGRAMS if line.strip().startswith(each))
        meant = max((each for each in ALL if set(each.split()) <= set(words) and each.startswith(program)), key=len)
        params = (*PROGRAMS[program].params, *ALL[meant].params)
        known = {opt for each in params for opt in (*each.opts, *each.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line
