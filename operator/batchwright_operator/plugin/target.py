"""Which cluster and namespaces a command is about, and the connection to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click

from batchwright_operator.errors import NotFound, NotServed
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.credentials import context_of, find_credentials
from batchwright_operator.kube.objects import Resource

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTarget:
    """The cluster that is asked about, and the namespace of its operator. `asked`: -n, empty where it is not given."""

    kubeconfig: Path | None
    context: str | None
    asked: str
    system: str

    @property
    def namespace(self) -> str:
        """As kubectl: -n, else that of the context, else `default`."""
        return self.asked or context_of(self.kubeconfig, self.context).namespace

    @property
    def title(self) -> str:
        """The context's name."""
        return context_of(self.kubeconfig, self.context).name


def missing(target: ClusterTarget, resource: Resource, name: str, error: NotFound | None = None) -> Exception:
    """That the target's namespace has no such object; or the error itself where the cluster has no such kind."""
    if isinstance(error, NotServed):
        return error
    return click.ClickException(f"namespace {target.namespace} has no {resource.kind} {name}; -n names another one")


def run_with_client(target: ClusterTarget, work: Callable[[ApiClient], Awaitable[T]]) -> T:
    """Runs `work` with a connection to the target."""
    credentials = find_credentials(target.kubeconfig, target.context)

    async def connected() -> T:
        async with ApiClient(credentials) as client:
            return await work(client)

    return asyncio.run(connected())
