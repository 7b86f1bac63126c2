"""`kubectl batchwright dashboard`: the page of a cluster, on this machine, by the user's own rights; it writes nothing.

Objects come by watches. Live load is in no object: it is read from the operator's metrics every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import click

from batchwright_operator.kube.client import ApiClient
from batchwright_operator.plugin.observe import Sight, facts, look, read_once
from batchwright_operator.plugin.operator_metrics import OperatorMetrics, read_metrics
from batchwright_operator.plugin.overview.cluster import overview
from batchwright_operator.plugin.target import ClusterTarget, run_with_client
from batchwright_operator.reconcile.informer import Informer
from batchwright_worker.dashboard.feed import SAMPLE_S, Feed
from batchwright_worker.dashboard.history import History
from batchwright_worker.dashboard.page import snapshot
from batchwright_worker.dashboard.server import page_served

STALE_S: Final = 60.0
PACE_S: Final = 0.5
"""Changes that come faster make one overview."""
ReadMetrics = Callable[[], Awaitable[OperatorMetrics]]


@click.command(
    epilog="\b\nExamples:\n"
    "  kubectl batchwright dashboard\n"
    "  kubectl batchwright dashboard --port 8080 --no-open\n"
    "  kubectl batchwright dashboard --save page.html\n\n"
    "Exit status: 0 after Ctrl-C; 1 for what the cluster refuses; 2 for a wrong command line.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of 127.0.0.1; default: any free one.")
@click.option("--open/--no-open", "opens", default=True, help="Open a browser.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the page as one file, and end.")
@click.pass_obj
def dashboard(target: ClusterTarget, port: int, save: Path | None, *, opens: bool) -> None:
    """A page that shows the cluster live, served on this machine alone: processors, models, jobs, what is wrong.

    It shows what you may read, and changes nothing. All namespaces, or that of -n.
    """
    if save is not None:
        run_with_client(target, lambda client: _save(client, target, save))
        click.echo(f"wrote {save}: it needs no server, and holds what you may read of the cluster")
        return
    with contextlib.suppress(KeyboardInterrupt):
        run_with_client(target, lambda client: _serve(client, target, port, opens=opens))


async def _serve(client: ApiClient, target: ClusterTarget, port: int, *, opens: bool) -> None:
    feed = Feed()
    async with following(client, target, feed) as published, contextlib.AsyncExitStack() as stack:
        try:
            address = await stack.enter_async_context(page_served(feed, port=port))
        except OSError as error:
            raise click.ClickException(f"port {port} cannot be listened on: {error}; --port names another") from error
        click.echo(f"{address}\n(of this machine alone; the part behind # is a secret; Ctrl-C ends it)")
        if opens:
            click.launch(address)
        await published


async def _save(client: ApiClient, target: ClusterTarget, path: Path) -> None:
    seen = overview(await read_once(client, target))
    try:
        await asyncio.to_thread(path.write_text, snapshot(seen, History()), "utf-8")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error


@contextlib.asynccontextmanager
async def following(
    client: ApiClient, target: ClusterTarget, feed: Feed, read: ReadMetrics | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """The feed has the cluster's overview, and keeps it current, while the context lasts, by the task that it yields.
    `read` is for clusters whose operator is reached in another way. Raises ApiError where not even the first look
    succeeds."""
    changed = asyncio.Event()
    sight = await look(client, target, changed.set)
    read = read or (lambda: read_metrics(client, target.system, time.time()))
    informers = [Informer(client, sight.store, each, stale_s=STALE_S) for each in sight.list_watches]
    tasks = [asyncio.create_task(each.run()) for each in informers]
    try:
        await asyncio.gather(*(each.synced.wait() for each in informers))
        tasks.append(asyncio.create_task(_published(sight, feed, read, changed)))
        yield tasks[-1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _published(sight: Sight, feed: Feed, read: ReadMetrics, changed: asyncio.Event) -> None:
    metrics, sampled, answered = OperatorMetrics(), float("-inf"), time.time()
    while True:
        changed.clear()
        now = time.time()
        if now - sampled >= SAMPLE_S:
            metrics, sampled = await read(), now
            answered = answered if metrics.silence else now
        feed.publish(overview(facts(sight, metrics, time.time(), answered)))
        if sampled == now:
            feed.sample()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, sampled + SAMPLE_S - time.time())):
                await changed.wait()
        await asyncio.sleep(PACE_S)
