"""The command line: `python -m e2e.conformance onnx`, `python -m e2e.conformance triton EXAMPLES`,
`python -m e2e.conformance triton-qa QA`."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def cli() -> None:
    """Models with known answers and clients of others, each through `batchwright-worker serve`."""


@cli.command()
@click.option("--only", default="", help="Cases whose names begin with one of these, separated by commas.")
@click.option("--limit", type=int, default=None, help="At most so many cases, spread over all of them.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=None, help="Write every outcome to this file.")
@click.option("--most-refused", type=int, default=60, show_default=True, help="Exit with 1 beyond so many refusals.")
def onnx(only: str, limit: int | None, path: Path | None, most_refused: int) -> None:
    """All cases of onnx.backend.test that onnxruntime runs; exits with 1 where an answer is wrong."""
    import msgspec

    from e2e.conformance.cases import cases
    from e2e.conformance.report import table
    from e2e.conformance.run import outcomes_of

    found = list(cases(only=tuple(filter(None, only.split(",")))))
    if limit is not None and limit < len(found):
        found = [found[number * len(found) // limit] for number in range(limit)]
    outcomes = list(outcomes_of(found, lambda text: click.echo(text, err=True)))
    click.echo(table(outcomes))
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes)))
    wrong = sum(each.verdict == "wrong" for each in outcomes)
    refused = sum(each.verdict == "refused" for each in outcomes)
    sys.exit(1 if wrong or refused > most_refused else 0)


@cli.command()
@click.argument("examples", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--python", default=sys.executable, help="Has tritonclient and pillow; default: this interpreter.")
def triton(examples: Path, python: str) -> None:
    """Triton's Python example clients, of the folder src/python/examples of its client repository."""
    import tempfile

    from e2e.conformance.triton_examples import outcomes_of

    passed = total = 0
    with tempfile.TemporaryDirectory(prefix="triton-") as folder:
        for outcome in outcomes_of(examples.absolute(), Path(python), Path(folder)):
            total, passed = total + 1, passed + outcome.passed
            click.echo(f"{'pass' if outcome.passed else 'fail'}  {outcome.run.name:32} {outcome.note}")
    click.echo(f"{passed} of {total} pass")


@cli.command()
@click.argument("qa", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--python", default=sys.executable, help="Has tritonclient and requests; default: this interpreter.")
def triton_qa(qa: Path, python: str) -> None:
    """Triton's qa scripts that need only models, of the folder qa of its server repository; takes ports 8000, 8001."""
    import tempfile

    from e2e.conformance.triton_qa import outcomes_of

    with tempfile.TemporaryDirectory(prefix="triton-qa-") as folder:
        for outcome in outcomes_of(qa.absolute(), Path(python), Path(folder)):
            click.echo(f"{outcome.ran - len(outcome.failed)} of {outcome.ran} pass  {outcome.script}")
            for name in outcome.failed:
                click.echo(f"    {name}")


if __name__ == "__main__":
    cli()
