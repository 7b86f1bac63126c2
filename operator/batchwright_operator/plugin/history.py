"""`kubectl batchwright history`, `rollback` and `restart`: the revisions of a ModelDeployment, and the way back."""

from __future__ import annotations

import datetime
from typing import Any

import click

from batchwright_operator.api.model_deployment import ModelDeployment, parse
from batchwright_operator.deployments.history import Step, previous, restored, steps
from batchwright_operator.deployments.revision import Revision, parse_revision
from batchwright_operator.errors import NotFound
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.conditions import few
from batchwright_operator.kube.metadata import controller_uid
from batchwright_operator.kube.objects import CONTROLLER_REVISION, MODEL_DEPLOYMENT
from batchwright_operator.plugin.arguments import EXIT_STATUS, name_argument
from batchwright_operator.plugin.output import Form, TableColumn, output_option, print_document, print_table
from batchwright_operator.plugin.target import ClusterTarget, missing, run_with_client
from batchwright_worker.api.names import ANNOTATION_RESTARTED_AT, LABEL_DEPLOYMENT

_COLUMNS = (
    TableColumn(title="REVISION"),
    TableColumn(title="ACCELERATORS", rank=2),
    TableColumn(title="WORKER IMAGE", rank=1),
    TableColumn(title="CHANGED"),
)


@click.command(
    epilog="\b\nExamples:\n  kubectl batchwright history recognizer\n\n" + EXIT_STATUS,
)
@name_argument(MODEL_DEPLOYMENT)
@output_option
@click.pass_obj
def history(target: ClusterTarget, name: str, form: Form) -> None:
    """The revisions of ModelDeployment NAME: what each changed, with which image its sidecars run."""

    async def read(client: ApiClient) -> list[Step]:
        return (await _history(client, target, name))[1]

    found = run_with_client(target, read)
    if print_document({"name": name, "revisions": [_document(step) for step in found]}, form):
        return
    rows = [
        [
            f"{step.number} (current)" if step.is_current else str(step.number),
            ", ".join(each.kind for each in step.revisions),
            _image(step.revisions[0]),
            _what(step),
        ]
        for step in found
    ]
    print_table(_COLUMNS, rows, form)


def _document(step: Step) -> dict[str, Any]:
    """For programs."""
    return {
        "revision": step.number,
        "current": step.is_current,
        "accelerators": [each.kind for each in step.revisions],
        "workerImage": _image(step.revisions[0]),
        "changed": list(step.changes),
    }


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright rollback recognizer\n"
    "  kubectl batchwright rollback recognizer --to-revision 3 --dry-run\n\n" + EXIT_STATUS,
)
@name_argument(MODEL_DEPLOYMENT)
@click.option("--to-revision", type=click.IntRange(1), help="As `history` numbers them; default: the one before.")
@click.option("--dry-run", is_flag=True, help="Only say what would be changed.")
@click.pass_obj
def rollback(target: ClusterTarget, name: str, to_revision: int | None, *, dry_run: bool) -> None:
    """Make the pods of ModelDeployment NAME as an older revision had them, with the very template of then.

    This writes the spec of the ModelDeployment, but for replicas, strategy and what else no pod is made from. Where a
    GitOps tool manages the object, revert the commit instead: the tool would undo this.
    """

    async def write(client: ApiClient) -> Step:
        deployment, found = await _history(client, target, name)
        step = _chosen(found, to_revision, name)
        body = {**deployment.raw, "spec": restored(deployment.raw["spec"], step.revisions[0])}
        if not dry_run:
            await client.replace(MODEL_DEPLOYMENT, body)
        return step

    step = run_with_client(target, write)
    said = "would go" if dry_run else "goes"
    click.echo(f"{name} {said} back to revision {step.number}")


@click.command(
    epilog="\b\nExamples:\n  kubectl batchwright restart recognizer\n\n" + EXIT_STATUS,
)
@name_argument(MODEL_DEPLOYMENT)
@click.pass_obj
def restart(target: ClusterTarget, name: str) -> None:
    """Replace the pods of ModelDeployment NAME, as its strategy says, by those that the operator makes now."""
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    async def write(client: ApiClient) -> None:
        patch = {"metadata": {"annotations": {ANNOTATION_RESTARTED_AT: stamp}}}
        try:
            await client.patch(MODEL_DEPLOYMENT, target.namespace, name, patch, style="merge")
        except NotFound as error:
            raise missing(target, MODEL_DEPLOYMENT, name, error) from error

    run_with_client(target, write)
    click.echo(f"{name} restarts")


async def _history(client: ApiClient, target: ClusterTarget, name: str) -> tuple[ModelDeployment, list[Step]]:
    try:
        raw = await client.get(MODEL_DEPLOYMENT, target.namespace, name)
    except NotFound as error:
        raise missing(target, MODEL_DEPLOYMENT, name, error) from error
    listing = await client.list(
        CONTROLLER_REVISION, namespace=target.namespace, label_selector=f"{LABEL_DEPLOYMENT}={name}"
    )
    owned = [each for each in listing.items if controller_uid(each) == raw["metadata"]["uid"]]
    deployment = parse(raw)
    return deployment, steps(deployment, [found for each in owned if (found := parse_revision(each)) is not None])


def _chosen(found: list[Step], number: int | None, name: str) -> Step:
    step = previous(found) if number is None else next((each for each in found if each.number == number), None)
    if step is None:
        there = ", ".join(str(each.number) for each in found) or "none"
        what = "older revision" if number is None else f"revision {number}"
        raise click.ClickException(f"{name} has no {what}; its revisions are: {there}")
    return step


def _image(revision: Revision) -> str:
    containers = revision.template["spec"].get("initContainers") or ()
    return next((str(each["image"]) for each in containers if each["name"] == "sidecar"), "")


def _what(step: Step) -> str:
    if step.changes:
        return few(step.changes)
    newest = step.revisions[0]
    return "upgrade" if newest.by_upgrade else f"restarted at {newest.restarted_at}" if newest.restarted_at else ""
