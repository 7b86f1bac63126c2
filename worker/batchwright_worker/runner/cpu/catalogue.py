"""`batchwright-worker functions [NAME]`: the built-in functions with their arguments, and an example of each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, Final

import click

from batchwright_worker.runner.cpu.builtin import BUILTINS, ONE_OF
from batchwright_worker.runner.cpu.functions import resolve

EXAMPLES: Final[dict[str, str]] = {
    "decode": "{mode: RGB}",
    "resize": "{height: 224, width: 224, cover: true, filter: bicubic}",
    "normalise": "{mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], channels: BGR}",
    "crop": "{of: decode, boxes: detect}",
    "tokenize": "{tokenizer: /models/tokenizer.json, max_length: 256}",
    "argmax": "{output: scores, labels: [cat, dog]}",
    "top-k": "{k: 3}",
    "ctc-decode": "{characters_file: /models/characters.txt}",
    "json-fields": "{fields: [text], single: true}",
}
"""`args` of a task, as a manifest has them."""
_WIDTH: Final = 118


def summary(name: str) -> str:
    """The first sentence of what it does."""
    return _paragraphs(name)[0].partition(". ")[0].rstrip(".:") + "."


def arguments(name: str) -> Iterator[tuple[str, str]]:
    """Arguments with their defaults; those without one are needed."""
    parameters = list(inspect.signature(resolve("", name)).parameters.values())[1:]
    for parameter in parameters:
        needed = parameter.default is inspect.Parameter.empty
        yield parameter.name, "needed" if needed else _shown(parameter.default)


def description(name: str) -> str:
    """For a terminal. Raises StepFailed(InvalidTask) for a name that is no built-in."""
    resolve("functions", name)
    lines = [name, "", *(f"{textwrap.fill(text, _WIDTH)}\n" for text in _paragraphs(name)), "Arguments:"]
    lines += [f"  {argument}: {default}" for argument, default in arguments(name)]
    lines += [f"Exactly one of {', '.join(ONE_OF[name])} is needed."] if name in ONE_OF else []
    return "\n".join([*lines, "", "Example:", f"  {_example(name)}"])


def page() -> str:
    """The page of the documentation."""
    blocks = [
        "# Built-in functions of CPU tasks",
        textwrap.fill(
            "Written by `batchwright-worker functions --page`; `batchwright-worker functions NAME` says the same. A "
            "built-in takes the result of the one task that its task depends on, or the item; where there are several, "
            "`of` names the one that is meant. A function of yours is written `module:callable`.",
            _WIDTH,
        ),
    ]
    for name in BUILTINS:
        rows = [f"| `{argument}` | {default} |" for argument, default in arguments(name)]
        blocks += [f"## {name}", *(textwrap.fill(text, _WIDTH) for text in _paragraphs(name))]
        blocks += [f"Exactly one of {', '.join(ONE_OF[name])} is needed."] if name in ONE_OF else []
        blocks += ["\n".join(["| argument | default |", "|---|---|", *rows]), f"```yaml\n{_example(name)}\n```"]
    return "\n\n".join(blocks) + "\n"


def _paragraphs(name: str) -> list[str]:
    text = inspect.getdoc(resolve("", name)) or ""
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _shown(default: Any) -> str:
    return (
        "unset" if default is None or default is ... else str(list(default) if isinstance(default, tuple) else default)
    )


def _example(name: str) -> str:
    return f"cpu: {{function: {name}, args: {EXAMPLES[name]}}}"


@click.command(
    epilog="\b\nExamples:\n"
    "  batchwright-worker functions\n"
    "  batchwright-worker functions top-k\n\n"
    "Exit status: 0; 2 for a name that is no function.",
)
@click.argument("name", required=False, type=click.Choice(list(BUILTINS)))
@click.option("--page", "as_page", is_flag=True, help="All of them, as docs/functions.md.")
def command(name: str | None, as_page: bool) -> None:
    """List the built-in functions of CPU tasks, or say all of one."""
    if as_page:
        click.echo(page(), nl=False)
    elif name is not None:
        click.echo(description(name))
    else:
        width = max(map(len, BUILTINS))
        for each in BUILTINS:
            click.echo(f"{each:{width}}  {summary(each)}")
