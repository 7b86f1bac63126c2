"""Completion: of the program itself in a shell, and of `kubectl batchwright` by kubectl's own completion.

kubectl asks the program `kubectl_complete-batchwright` on the PATH, in the words of cobra: a line per proposal (a tab
before its description), then a colon and a number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from batchwright_operator.errors import OperatorError
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import Resource
from batchwright_operator.plugin.target import ClusterTarget, run_with_client

PROGRAM: Final = "kubectl-batchwright"
COMPLETE_VAR: Final = "_KUBECTL_BATCHWRIGHT_COMPLETE"
FILES: Final = ":0"
NO_FILES: Final = ":4"
PATIENCE_S: Final = 3.0
Proposals = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

_FOR_KUBECTL: Final = """#!/bin/sh
# Save as an executable file `kubectl_complete-batchwright` on the PATH: kubectl completes `kubectl batchwright` by it.
exec kubectl-batchwright completion words -- "$@"
"""


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright completion bash > ~/.local/share/bash-completion/completions/kubectl-batchwright\n"
    "  kubectl batchwright completion kubectl > ~/.local/bin/kubectl_complete-batchwright\n\n"
    "Exit status: 0; 2 for a wrong command line.",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "kubectl", "words"]))
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def completion(context: click.Context, shell: str, words: tuple[str, ...]) -> None:
    """Print the completion of SHELL, to be sourced there.

    `kubectl` prints the program by which kubectl itself completes `kubectl batchwright`; `words` is what that asks.
    """
    program = context.find_root().command
    if shell == "words":
        click.echo("\n".join(proposals(program, words)))
    elif shell == "kubectl":
        click.echo(_FOR_KUBECTL, nl=False)
    else:
        found = get_completion_class(shell)
        assert found is not None, "the choice names only those that there are"
        click.echo(found(program, {}, PROGRAM, COMPLETE_VAR).source())


def proposals(program: click.Command, words: Iterable[str]) -> list[str]:
    """What may stand in the place of the last of the words, as kubectl reads it."""
    *before, incomplete = list(words) or [""]
    found = ShellComplete(program, {}, PROGRAM, COMPLETE_VAR).get_completions(before, incomplete)
    plain = [each for each in found if each.type == "plain"]
    lines = [f"{each.value}\t{each.help}" if each.help else str(each.value) for each in plain]
    return [*lines, NO_FILES if len(plain) == len(found) else FILES]


# --- names of objects


def names_of(resource: Resource) -> Proposals:
    """Names of the objects in the namespace that the command line names; none where the cluster does not say."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = _listed(target_of(context), resource)
        return [CompletionItem(name) for name in found if name.startswith(incomplete)]

    return complete


def target_of(context: click.Context) -> ClusterTarget:
    """Of a command line that is not complete: no callback of the group has run."""
    given: dict[str, Any] = context.find_root().params
    kubeconfig = given.get("kubeconfig")
    return ClusterTarget(
        kubeconfig=Path(kubeconfig) if kubeconfig else None,
        context=given.get("context"),
        asked=str(given.get("namespace") or ""),
        system=str(given.get("system") or ""),
    )


def _listed(target: ClusterTarget, resource: Resource) -> list[str]:
    """Sorted; a keystroke waits for no slow cluster, and gets no traceback from one that is not there."""

    async def read(client: ApiClient) -> list[str]:
        namespace = target.namespace if resource.namespaced else ""
        async with asyncio.timeout(PATIENCE_S):
            listing = await client.list(resource, namespace=namespace, metadata_only=True)
        return sorted(str(each["metadata"]["name"]) for each in listing.items)

    try:
        return run_with_client(target, read)
    except (OperatorError, TimeoutError):
        return []
