"""A command without the extra that it needs says which to install, instead of a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest


def without(package: str, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program's main where a package is not installed."""
    code = f"import sys; sys.modules[{package!r}] = None; from {program}.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("package", "program", "command", "extra"),
    [
        ("aiohttp", "batchwright_operator", "run", "operator"),
        ("kopf", "batchwright_operator", "run", "operator"),
        ("prometheus_client", "batchwright_worker", "agent", "worker"),
    ],
)
def test_the_extra_is_named(package: str, program: str, command: str, extra: str) -> None:
    said = without(package, program, command, "--help")
    assert said.returncode == 1
    assert said.stderr == (
        f"Error: {command} needs the package {package}, which is not installed: pip install 'batchwright[{extra}]'\n"
    )


def test_the_laboratory_names_its_own_extra() -> None:
    said = without("scipy", "batchwright_worker", "layerwise", "simulate", "--help")
    assert said.returncode == 1
    assert said.stderr == (
        "Error: simulate needs the package scipy, which is not installed: pip install 'batchwright[lab]'\n"
    )


@pytest.mark.parametrize("program", ["batchwright_operator", "batchwright_worker"])
def test_the_help_needs_no_extra(program: str) -> None:
    said = without("aiohttp", program, "--help")
    assert (said.returncode, said.stderr) == (0, "")
    assert "Commands:" in said.stdout
