"""`kubectl batchwright why`: why a pod or a ModelDeployment is as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import click

from batchwright_operator.errors import NotFound, NotServed
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import MODEL_DEPLOYMENT, POD, Raw
from batchwright_operator.placement import receipts
from batchwright_operator.placement.scoring import TERMS
from batchwright_operator.plugin.arguments import EXIT_STATUS, name_argument
from batchwright_operator.plugin.output import Form, TableColumn, one_line, output_option, print_document, print_table
from batchwright_operator.plugin.target import ClusterTarget, run_with_client
from batchwright_worker.api.messages import Receipt
from batchwright_worker.api.names import LABEL_COMPONENT, LABEL_DEPLOYMENT


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright -n team why recognizer\n"
    "  kubectl batchwright why recognizer-cpu-6c8f-x2x9k\n\n" + EXIT_STATUS,
)
@name_argument(MODEL_DEPLOYMENT)
@output_option
@click.pass_obj
def why(target: ClusterTarget, name: str, form: Form) -> None:
    """Why pod or ModelDeployment NAME is as it is: place, load, batch size, conditions."""
    namespace = target.namespace

    async def read(client: ApiClient) -> tuple[list[Raw], Raw | None]:
        try:
            return [await client.get(POD, namespace, name)], None
        except NotFound:
            pass
        try:
            stored = await client.get(MODEL_DEPLOYMENT, namespace, name)
        except NotServed:
            raise
        except NotFound as error:
            raise click.ClickException(
                f"namespace {namespace} has neither a pod nor a ModelDeployment {name}; -n names another one"
            ) from error
        labels = f"{LABEL_DEPLOYMENT}={name},{LABEL_COMPONENT}=model"
        pods = await client.list(POD, namespace=namespace, label_selector=labels)
        return pods.items, stored

    pods, stored = run_with_client(target, read)
    if print_document(_document(pods, stored), form):
        return
    if stored is not None:
        _print_deployment(stored)
    for pod in pods:
        _print_pod(pod, form)


def _document(pods: Iterable[Raw], stored: Raw | None) -> Mapping[str, Any]:
    """For programs: the status of the deployment if one was named, and what each pod says."""
    status = {} if stored is None else {"name": stored["metadata"]["name"], "status": stored.get("status") or {}}
    told = [
        {"name": pod["metadata"]["name"], "receipt": receipts.parse(pod), "waiting": receipts.pending_reason(pod)}
        for pod in pods
    ]
    return {**status, "pods": [{name: value for name, value in one.items() if value is not None} for one in told]}


def _print_deployment(stored: Raw) -> None:
    status = stored.get("status") or {}
    name = click.style(stored["metadata"]["name"], bold=True)
    click.echo(f"{name}: {one_line((status.get('summary') or {}).get('reason', 'not seen yet'))}")
    for condition in status.get("conditions") or ():
        text = f"{condition['type']}={condition['status']} {condition['reason']}"
        text = f"{text}: {condition['message']}" if condition.get("message") else text
        click.echo(f"  {one_line(text)}")
    for model in status.get("models") or ():
        latency = (model.get("latencyMilliseconds") or {}).get("p95", "-")
        text = f"{model['name']}: batch {model.get('batchSize')}, p95 {latency} ms, trend {model.get('trend')}"
        tuning = model.get("tuning") or {}
        said = [f"changed: {model['lastChangeReason']}"] if model.get("lastChangeReason") else []
        said += [f"held: {tuning['heldBecause']}"] if tuning.get("heldBecause") else []
        said += [f"bound by {tuning['boundBy']}"] if tuning.get("boundBy") else []
        click.echo(f"  {one_line('; '.join([text, *said]))}")


def _print_pod(pod: Raw, form: Form) -> None:
    name = pod["metadata"]["name"]
    receipt, waiting = receipts.parse(pod), receipts.pending_reason(pod)
    said = click.style(name, bold=True)
    if receipt:
        click.echo(f"{said}: {one_line(receipts.describe(receipt))}")
        print_receipts([(name, receipt)], form)
    elif waiting:
        click.echo(f"{said} waits: {one_line(waiting.render())}")
    else:
        click.echo(f"{said}: no receipt; it was not placed by Batchwright")


def print_receipts(rows: Iterable[tuple[str, Receipt]], form: Form) -> None:
    """As a table."""
    print_table(*receipt_table(rows), form)


def receipt_table(
    rows: Iterable[tuple[str, Receipt]], terms: Iterable[str] = TERMS
) -> tuple[tuple[TableColumn, ...], list[list[str]]]:
    """(pod, its receipt) -> the load with its terms, and beneath it the candidates that lost."""
    names = tuple(terms)
    columns = (
        TableColumn(title="POD"),
        TableColumn(title="NODE"),
        TableColumn(title="PROCESSOR", rank=2),
        TableColumn(title="LOAD", right=True),
        *(TableColumn(title=name.upper(), rank=1, right=True) for name in names),
    )
    body = []
    for pod, receipt in rows:
        values = [receipt.terms.get(name, "") for name in names]
        body.append([pod, receipt.node, receipt.processor, receipt.load, *values])
        body += [["", lost.node, lost.processor, lost.load, *("" for _ in names)] for lost in receipt.runners_up]
    return columns, body
