"""`kubectl batchwright decisions`: what the operator decided and why, line by line as a log; from its Events."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import click

from batchwright_operator.errors import Forbidden
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import CORE_EVENT, MODEL_DEPLOYMENT, Raw
from batchwright_operator.kube.times import rfc3339
from batchwright_operator.plugin.arguments import EXIT_STATUS, name_argument
from batchwright_operator.plugin.observe import OUR_EVENTS
from batchwright_operator.plugin.output import Form, one_line, output_option, print_document
from batchwright_operator.plugin.overview.cluster import changes
from batchwright_operator.plugin.target import ClusterTarget, run_with_client
from batchwright_operator.reconcile.cache import Store
from batchwright_operator.reconcile.informer import Informer
from batchwright_operator.reconcile.interfaces import Watch
from batchwright_worker.dashboard.overview import ChangeView

STALE_S: Final = 60.0


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright decisions --tail 20\n"
    "  kubectl batchwright -n team decisions recognizer --follow\n\n" + EXIT_STATUS,
)
@name_argument(MODEL_DEPLOYMENT, required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--tail", type=click.IntRange(0), help="Of those that are there only so many, the newest.")
@output_option
@click.pass_obj
def decisions(target: ClusterTarget, name: str | None, tail: int | None, form: Form, *, follow: bool) -> None:
    """What the operator decided about ModelDeployment or InferenceJob NAME (default: about all), oldest first: batch
    sizes, readiness, progress, refusals. All namespaces, or that of -n. A cluster keeps Events for an hour."""
    if follow and form in ("json", "yaml"):
        raise click.UsageError("--follow prints lines; leave -o out, or --follow")

    async def tell(client: ApiClient) -> None:
        selector = OUR_EVENTS + (f",involvedObject.name={name}" if name else "")
        found, namespace = await _listed(client, target, selector)
        shown = found if tail is None else found[len(found) - min(tail, len(found)) :]
        if print_document({"decisions": shown}, form):
            return
        for each in shown:
            click.echo(line(each))
        if follow:
            await _followed(
                client, Watch(resource=CORE_EVENT, keys=_Printed(found), field_selector=selector), namespace
            )

    with contextlib.suppress(KeyboardInterrupt):
        run_with_client(target, tell)


async def _listed(client: ApiClient, target: ClusterTarget, selector: str) -> tuple[list[ChangeView], str]:
    """Oldest first; and the namespace that they are of, empty for all."""
    namespace = target.asked
    try:
        found = await client.list(CORE_EVENT, namespace=namespace, field_selector=selector)
    except Forbidden:
        if namespace:
            raise
        namespace = target.namespace
        found = await client.list(CORE_EVENT, namespace=namespace, field_selector=selector)
        click.echo(f"note: only those in namespace {namespace}: you may not list all", err=True)
    return changes(found.items)[::-1], namespace


class _Printed:
    """Prints each Event that comes, once; those that expire are told as changes too."""

    def __init__(self, already: list[ChangeView]) -> None:
        self._told = set(already)

    def __call__(self, event: Raw) -> tuple[()]:
        for each in changes([event]):
            if each not in self._told:
                self._told.add(each)
                click.echo(line(each))
        return ()


async def _followed(client: ApiClient, watch: Watch, namespace: str) -> None:
    store = Store()
    informer = Informer(client, store, store.register(watch, namespace), stale_s=STALE_S)
    await asyncio.gather(informer.run())


def line(change: ChangeView) -> str:
    """As a line of a log: when, about what, the reason, the text."""
    again = f" (x{change.count})" if change.count > 1 else ""
    warns = "!" if change.warns else " "
    about, reason, text = map(one_line, (change.about, change.reason, change.text))
    return f"{rfc3339(change.at)} {warns} {about}  {reason}{again}: {text}"
