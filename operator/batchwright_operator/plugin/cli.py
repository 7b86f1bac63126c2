"""`kubectl batchwright`: why things are where they are, what would happen, how busy the processors are."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable
from pathlib import Path

import click
import yaml
from rich.console import Console
from rich.table import Table

from batchwright_operator.errors import NotFound, OperatorError
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import ACCELERATOR_PROFILE, MODEL_DEPLOYMENT, NODE, POD, Raw
from batchwright_operator.placement import receipts
from batchwright_operator.placement.scoring import TERMS
from batchwright_operator.plugin.cluster_view import ClusterTarget, ClusterView, read_view, run_with_client
from batchwright_operator.plugin.dry_run import PlannedPod, as_desired, plan, reconcilers
from batchwright_operator.plugin.history import history, restart, rollback
from batchwright_operator.plugin.retry import retry
from batchwright_operator.processors.processor import Processor, kinds_on, processors_of
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import ANNOTATION_REBENCHMARK, LABEL_COMPONENT, LABEL_DEPLOYMENT, kind_slug

console = Console()
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=EXISTING_FILE)
@click.option("--context")
@click.option("-n", "--namespace", default="default", show_default=True, help="Of pods and ModelDeployments.")
@click.option("--system", default="batchwright-system", show_default=True, help="Namespace of the operator.")
@click.pass_context
def cli(found: click.Context, kubeconfig: Path | None, context: str | None, namespace: str, system: str) -> None:
    """Look into Batchwright, and go back to what ran before."""
    found.obj = ClusterTarget(kubeconfig=kubeconfig, context=context, namespace=namespace, system=system)


for command in (history, rollback, restart, retry):
    cli.add_command(command)


def main() -> None:
    """The entry point; errors of the operator's code are printed in one line, without a traceback."""
    try:
        cli(prog_name="kubectl batchwright")
    except OperatorError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


# --- why


@cli.command()
@click.argument("name")
@click.pass_obj
def why(target: ClusterTarget, name: str) -> None:
    """Why pod or ModelDeployment NAME is as it is: place, load, batch size, conditions."""

    async def read(client: ApiClient) -> tuple[list[Raw], Raw | None]:
        try:
            return [await client.get(POD, target.namespace, name)], None
        except NotFound:
            pass
        try:
            stored = await client.get(MODEL_DEPLOYMENT, target.namespace, name)
        except NotFound as error:
            raise click.ClickException(
                f"namespace {target.namespace} has neither a pod nor a ModelDeployment {name}; -n names another one"
            ) from error
        labels = f"{LABEL_DEPLOYMENT}={name},{LABEL_COMPONENT}=model"
        pods = await client.list(POD, namespace=target.namespace, label_selector=labels)
        return pods.items, stored

    pods, stored = run_with_client(target, read)
    if stored is not None:
        _print_deployment(stored)
    for pod in pods:
        _print_pod(pod)


def _print_deployment(stored: Raw) -> None:
    status = stored.get("status") or {}
    console.print(
        f"[bold]{stored['metadata']['name']}[/bold]: {(status.get('summary') or {}).get('reason', 'not seen yet')}"
    )
    for condition in status.get("conditions") or ():
        text = f"  {condition['type']}={condition['status']} {condition['reason']}"
        console.print(
            f"{text}: {condition['message']}" if condition.get("message") else text, highlight=False, soft_wrap=True
        )
    for model in status.get("models") or ():
        latency = (model.get("latencyMilliseconds") or {}).get("p95", "-")
        text = f"  {model['name']}: batch {model.get('batchSize')}, p95 {latency} ms, trend {model.get('trend')}"
        reason = model.get("lastChangeReason")
        console.print(f"{text}; {reason}" if reason else text, highlight=False, soft_wrap=True)


def _print_pod(pod: Raw) -> None:
    name = pod["metadata"]["name"]
    receipt, waiting = receipts.parse(pod), receipts.pending_reason(pod)
    if receipt:
        console.print(f"[bold]{name}[/bold]: {receipts.describe(receipt)}", highlight=False, soft_wrap=True)
        console.print(receipt_table([(name, receipt)]))
    elif waiting:
        console.print(f"[bold]{name}[/bold] waits: {waiting.render()}", highlight=False, soft_wrap=True)
    else:
        console.print(f"[bold]{name}[/bold]: no receipt; it was not placed by Batchwright")


def receipt_table(rows: Iterable[tuple[str, Receipt]], terms: Iterable[str] = TERMS) -> Table:
    """(pod, its receipt) -> the load with its terms, and beneath it the candidates that lost."""
    names = tuple(terms)
    table = Table("pod", "node", "processor", "load", *names, box=None)
    for pod, receipt in rows:
        values = (receipt.terms.get(name, "") for name in names)
        table.add_row(pod, receipt.node, receipt.processor, receipt.load, *values)
        for lost in receipt.runners_up:
            table.add_row("", lost.node, lost.processor, lost.load, style="dim")
    return table


# --- plan


@cli.command(name="plan")
@click.argument("name", required=False)
@click.option(
    "-f", "--filename", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A manifest instead."
)
@click.option("--replicas", type=click.IntRange(0, 10_000), help="With this many replicas.")
@click.pass_obj
def plan_command(target: ClusterTarget, name: str | None, filename: Path | None, replicas: int | None) -> None:
    """Where the pods of a ModelDeployment that do not run yet would go, were they made now."""
    if (name is None) == (filename is None):
        raise click.UsageError("name a ModelDeployment, or give a manifest with -f")
    settings = Settings(operator_namespace=target.system)

    async def decide(client: ApiClient) -> tuple[list[PlannedPod], str]:
        view = await _view_of_all(client, target, settings)
        stored = None if name is None else view.store.get(MODEL_DEPLOYMENT, target.namespace, name)
        if name is not None and stored is None:
            raise click.ClickException(f"namespace {target.namespace} has no ModelDeployment {name}")
        document = stored if stored is not None else _manifest(filename)
        desired = as_desired(document, stored, target.namespace, replicas)
        return plan(view, settings, desired), view.note

    placed, note = run_with_client(target, decide)
    _warn(note)
    if not placed:
        console.print("every replica has a pod already: nothing would be placed")
        return
    console.print(receipt_table([(one.pod, one.receipt) for one in placed if one.receipt]))
    for one in placed:
        text = f"waits: {one.waiting}" if one.waiting else receipts.describe(one.receipt) if one.receipt else ""
        console.print(f"{one.pod}: {text}", highlight=False, soft_wrap=True)


async def _view_of_all(client: ApiClient, target: ClusterTarget, settings: Settings) -> ClusterView:
    """The view with everything that the reconcilers watch, which only a view of the live state can name."""
    empty = await read_view(client, target)
    watches = [watch for reconciler in reconcilers(settings, empty) for watch in reconciler.watches()]
    return await read_view(client, target, watches)


def _manifest(path: Path | None) -> Raw:
    assert path is not None
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except yaml.YAMLError as error:
        raise click.ClickException(f"{path}: {error}") from error
    found = [one for one in documents if isinstance(one, dict) and one.get("kind") == MODEL_DEPLOYMENT.kind]
    if len(found) != 1:
        raise click.ClickException(f"{path} holds {len(found)} ModelDeployments; give a file with exactly one")
    return found[0]


# --- top


@cli.command()
@click.pass_obj
def top(target: ClusterTarget) -> None:
    """Every processor: how fast it is, how busy, and what runs on it."""

    async def read(client: ApiClient) -> ClusterView:
        return await read_view(client, target)

    view = run_with_client(target, read)
    _warn(view.note)
    now = datetime.datetime.now(datetime.UTC).timestamp()
    table = Table("node", "processor", "product", "images/s", "utilization", "memory", "sample", "model pods", box=None)
    for node in sorted(view.store.all(NODE), key=lambda one: str(one["metadata"]["name"])):
        for row in _processor_rows(view, node, now):
            table.add_row(*row)
    console.print(table)


def _processor_rows(view: ClusterView, node: Raw, now: float) -> list[tuple[str, ...]]:
    name = node["metadata"]["name"]
    known = processors_of(view.store.get(ACCELERATOR_PROFILE, "", name))
    rows: list[tuple[str, ...]] = []
    for kind in kinds_on(node):
        processor, sample = known.get(kind, Processor(kind=kind)), view.live.samples.get((name, kind))
        live = ("-", "-", "-")
        if sample:
            age = f"{now - sample.taken_at:.0f} s ago"
            live = (f"{sample.utilization:.0%}", f"{sample.memory_utilization:.0%}", age)
        pods = str(_model_pods(view, name, kind))
        rows.append((name, kind, processor.product, _speed(processor), *live, pods))
    return rows


def _speed(processor: Processor) -> str:
    return f"{processor.capacity:.1f}" if processor.capacity else processor.reason


def _model_pods(view: ClusterView, node: str, kind: str) -> int:
    wanted = {LABEL_COMPONENT: "model", "batchwright.dev/accelerator": kind_slug(kind)}
    return sum(
        wanted.items() <= (pod["metadata"].get("labels") or {}).items()
        for pod in view.store.all(POD)
        if (pod.get("spec") or {}).get("nodeName") == node
    )


# --- bench


@cli.command()
@click.argument("node")
@click.option("--again", is_flag=True, help="Ask the operator for a new benchmark of this node.")
@click.pass_obj
def bench(target: ClusterTarget, node: str, again: bool) -> None:
    """The load tables of NODE."""
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

    async def read(client: ApiClient) -> Raw:
        try:
            if not again:
                return await client.get(ACCELERATOR_PROFILE, "", node)
            patch = {"metadata": {"annotations": {ANNOTATION_REBENCHMARK: stamp}}}
            return await client.patch(ACCELERATOR_PROFILE, "", node, patch, style="merge")
        except NotFound as error:
            raise click.ClickException(
                f"there is no AcceleratorProfile {node}; `kubectl get accel` lists them"
            ) from error

    profile = run_with_client(target, read)
    for processor in processors_of(profile).values():
        text = f"{processor.product}: {_speed(processor)} {'images/s' if processor.capacity else processor.message}"
        console.print(f"[bold]{processor.kind}[/bold] {text}", highlight=False, soft_wrap=True)
        table = Table("batch size", "images/s", "services at once", box=None)
        for row in processor.load_table:
            table.add_row(str(row.batch_size), f"{row.images_per_second:.1f}", str(row.max_services))
        console.print(table)
    if again:
        console.print(f"asked for a new benchmark of {node}; it runs when the node is idle")


def _warn(note: str) -> None:
    if note:
        click.echo(f"note: {note}", err=True)


if __name__ == "__main__":
    main()
