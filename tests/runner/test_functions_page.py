"""Built-in functions are found: listed by a command, with arguments and an example that can be run, and on a page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from batchwright_worker.__main__ import ROLES
from batchwright_worker.runner.cpu.builtin import BUILTINS, FILE_ARGUMENTS
from batchwright_worker.runner.cpu.catalogue import EXAMPLES, command, description, page
from batchwright_worker.runner.cpu.functions import check_arguments, resolve

PAGE = Path(__file__).parents[2] / "docs" / "functions.md"


def test_the_page_is_what_the_command_writes() -> None:
    assert PAGE.read_text() == page(), "write it anew: batchwright-worker functions --page > docs/functions.md"


@pytest.mark.parametrize("name", BUILTINS)
def test_each_says_its_arguments_and_an_example_that_binds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = yaml.safe_load(EXAMPLES[name])
    monkeypatch.setattr("batchwright_worker.runner.cpu.builtin.FILE_ARGUMENTS", frozenset[str]())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    check_arguments("t", name, resolve("t", name), args)
    assert all(f"  {argument}: " in description(name) for argument in args)


def test_the_command_lists_all_and_refuses_others() -> None:
    listed = CliRunner().invoke(command, [])
    assert [line.split()[0] for line in listed.output.splitlines()] == list(BUILTINS)
    assert CliRunner().invoke(command, ["nothing"]).exit_code == 2
    assert ROLES["functions"].target.endswith("catalogue:command")
    assert "characters_file" in FILE_ARGUMENTS
