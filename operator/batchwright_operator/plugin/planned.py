"""`kubectl batchwright plan`: where pods would go, were they made now."""

from __future__ import annotations

from pathlib import Path

import click

from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import MODEL_DEPLOYMENT, Raw
from batchwright_operator.placement import receipts
from batchwright_operator.plugin.arguments import EXIT_STATUS, OBJECT_NAME, name_argument
from batchwright_operator.plugin.cluster_view import ClusterView, read_view
from batchwright_operator.plugin.dry_run import PlannedPod, as_desired, plan, reconcilers
from batchwright_operator.plugin.output import Form, one_line, output_option, print_document
from batchwright_operator.plugin.target import ClusterTarget, missing, run_with_client
from batchwright_operator.plugin.why import print_receipts
from batchwright_operator.settings import Settings
from batchwright_worker.api.documents import ManifestError, load_manifests, rule_problems


@click.command(
    name="plan",
    epilog="\b\nExamples:\n"
    "  kubectl batchwright plan recognizer --replicas 8\n"
    "  kubectl batchwright plan -f deployment.yaml -o json\n\n" + EXIT_STATUS,
)
@name_argument(MODEL_DEPLOYMENT, required=False)
@click.option(
    "-f", "--filename", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A manifest instead."
)
@click.option("--replicas", type=click.IntRange(0, 10_000), help="With this many replicas.")
@output_option
@click.pass_obj
def plan_command(
    target: ClusterTarget, name: str | None, filename: Path | None, replicas: int | None, form: Form
) -> None:
    """Where the pods of a ModelDeployment that do not run yet would go, were they made now."""
    if (name is None) == (filename is None):
        raise click.UsageError("name a ModelDeployment, or give a manifest with -f")
    settings, namespace = Settings(operator_namespace=target.system), target.namespace

    async def decide(client: ApiClient) -> tuple[list[PlannedPod], str]:
        view = await _view_of_all(client, target, settings)
        stored = None if name is None else view.store.get(MODEL_DEPLOYMENT, namespace, name)
        if name is not None and stored is None:
            raise missing(target, MODEL_DEPLOYMENT, name)
        document = stored if stored is not None else _manifest(filename)
        desired = as_desired(document, stored, namespace, replicas)
        return plan(view, settings, desired), view.note

    placed, note = run_with_client(target, decide)
    if note:
        click.echo(f"note: {one_line(note)}", err=True)
    if print_document({"pods": placed}, form):
        return
    if not placed:
        click.echo("every replica has a pod already: nothing would be placed")
        return
    print_receipts([(one.pod, one.receipt) for one in placed if one.receipt], form)
    for one in placed:
        text = f"waits: {one.waiting}" if one.waiting else receipts.describe(one.receipt) if one.receipt else ""
        click.echo(f"{one.pod}: {one_line(text)}")


async def _view_of_all(client: ApiClient, target: ClusterTarget, settings: Settings) -> ClusterView:
    """The view with everything that the reconcilers watch, which only a view of the live state can name."""
    empty = await read_view(client, target)
    watches = [watch for reconciler in reconcilers(settings, empty) for watch in reconciler.watches()]
    return await read_view(client, target, watches)


def _manifest(path: Path | None) -> Raw:
    assert path is not None
    try:
        found = [one for one in load_manifests([path]) if one.get("kind") == MODEL_DEPLOYMENT.kind]
    except ManifestError as error:
        raise click.ClickException(str(error)) from error
    if len(found) != 1:
        raise click.ClickException(f"{path} holds {len(found)} ModelDeployments; give a file with exactly one")
    name = (found[0].get("metadata") or {}).get("name")
    if not isinstance(name, str) or not OBJECT_NAME.fits(name):
        raise click.ClickException(f"{path}: metadata.name: {name!r} is no name of an object")
    if problems := list(rule_problems(found[0])):
        raise click.ClickException(f"{path}: " + "; ".join(map(str, problems)))
    return found[0]
