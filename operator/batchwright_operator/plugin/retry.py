"""`kubectl batchwright retry`: a new InferenceJob that runs the failed items of a complete one again."""

from __future__ import annotations

import copy
from collections.abc import Collection
from itertools import count
from typing import Final

import click

from batchwright_operator.errors import NotFound
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.conditions import holds
from batchwright_operator.kube.objects import INFERENCE_JOB, Raw
from batchwright_operator.plugin.arguments import EXIT_STATUS, OBJECT_NAME, name_argument
from batchwright_operator.plugin.target import ClusterTarget, missing, run_with_client
from batchwright_worker.api.names import ANNOTATION_RETRY_OF, child_name

_OF_KUBECTL: Final = "kubectl.kubernetes.io/last-applied-configuration"


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright retry pages\n"
    "  kubectl batchwright retry pages --as pages-again --dry-run\n\n" + EXIT_STATUS,
)
@name_argument(INFERENCE_JOB)
@click.option("--as", "wanted", type=OBJECT_NAME, help="Name of the new InferenceJob; default: NAME-retry-1, -2, ..")
@click.option("--dry-run", is_flag=True, help="Only say what would be made.")
@click.pass_obj
def retry(target: ClusterTarget, name: str, wanted: str | None, *, dry_run: bool) -> None:
    """Run the failed items of InferenceJob NAME, which is complete, again: a new InferenceJob with its spec and
    `output.mode: RetryFailed`.

    Results of these items come into the data set where they belong, all at once at the end. A GitOps tool wants the new
    manifest in its repository instead: the same one, with another name and that mode.
    """

    async def write(client: ApiClient) -> Raw:
        try:
            stored = await client.get(INFERENCE_JOB, target.namespace, name)
        except NotFound as error:
            raise missing(target, INFERENCE_JOB, name, error) from error
        listing = await client.list(INFERENCE_JOB, namespace=target.namespace)
        body = retried(stored, wanted, {each["metadata"]["name"] for each in listing.items})
        if not dry_run:
            await client.create(INFERENCE_JOB, body)
        return body

    made = run_with_client(target, write)["metadata"]["name"]
    said = "would run" if dry_run else "runs"
    click.echo(f"{made} {said} the failed items of {name} again")


def retried(stored: Raw, wanted: str | None, taken: Collection[str]) -> Raw:
    """The new InferenceJob. Raises ClickException where there is nothing to repeat. Pure."""
    metadata, status = stored["metadata"], stored.get("status") or {}
    name = metadata["name"]
    if not holds(status.get("conditions"), "Complete"):
        raise click.ClickException(f"{name} is not complete: one that failed goes on where it ended when applied anew")
    if not (status.get("items") or {}).get("failed"):
        raise click.ClickException(f"no item of {name} failed: there is nothing to run again")
    first = (metadata.get("annotations") or {}).get(ANNOTATION_RETRY_OF, name)
    free = (each for number in count(1) if (each := child_name(first, "retry", str(number))) not in taken)
    spec = copy.deepcopy(stored["spec"])
    spec["output"]["mode"] = "RetryFailed"
    spec["suspend"] = False
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != _OF_KUBECTL}
    return {
        "apiVersion": stored["apiVersion"],
        "kind": stored["kind"],
        "metadata": {
            "name": wanted or next(free),
            "namespace": metadata["namespace"],
            "labels": dict(metadata.get("labels") or {}),
            "annotations": annotations | {ANNOTATION_RETRY_OF: first},
        },
        "spec": spec,
    }
