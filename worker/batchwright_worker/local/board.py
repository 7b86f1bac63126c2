"""The page of one process, for `serve` and `run`: the cluster's page with another source."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiohttp
import click
import msgspec

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.dashboard.feed import Feed
from batchwright_worker.dashboard.page import snapshot
from batchwright_worker.dashboard.server import page_served
from batchwright_worker.local.deployment import LocalDeployment
from batchwright_worker.local.overview import JobHere, ServedHere, overview_here
from batchwright_worker.local.processes import LocalServing

PACE_S: Final = 0.5
SAMPLE_S: Final = 1.0
"""A job of a minute is to have a chart."""
WAIT_S: Final = 20


class Board:
    """What is shown of this process. `job` tells how far its job is, if it has one."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.job: Callable[[], JobHere] | None = None
        self.feed = Feed()
        self._served: dict[str, ServedHere] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def follow(self, deployment: LocalDeployment, here: LocalServing) -> None:
        """Show a deployment that this process serves."""
        self._served[deployment.name] = ServedHere(
            name=deployment.name, kind=deployment.kind, url=here.url, document=deployment.document
        )
        self._tasks.append(asyncio.create_task(self._follow(deployment.name, here)))

    def refresh(self) -> None:
        """Tell the pages what is known now."""
        job = None if self.job is None else self.job()
        self.feed.publish(overview_here(self.title, time.time(), list(self._served.values()), job))

    @contextlib.asynccontextmanager
    async def open(self, *, serve: bool = True) -> AsyncIterator[None]:
        """Keeps the overview current while the context lasts, and serves the page, whose address is printed."""
        self.refresh()
        self._tasks.append(asyncio.create_task(self._keep()))
        try:
            if not serve:
                yield
                return
            async with page_served(self.feed) as address:
                click.echo(f"dashboard: {address}", err=True)
                yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self.refresh()
            self.feed.sample()

    def save(self, path: Path) -> None:
        """The page as one file that needs no server."""
        assert self.feed.overview is not None, "it was never opened"
        path.write_text(snapshot(self.feed.overview, self.feed.history))

    async def _keep(self) -> None:
        sampled = 0.0
        while True:
            self.refresh()
            if time.monotonic() - sampled >= SAMPLE_S:
                sampled = time.monotonic()
                self.feed.sample()
            await asyncio.sleep(PACE_S)

    async def _follow(self, name: str, here: LocalServing) -> None:
        """The newest state of one sidecar, by long polls."""
        revision = -1
        async with aiohttp.ClientSession(headers=here.authorization) as session:
            while True:
                try:
                    async with session.get(
                        here.state_url, params={"after": revision, "waitSeconds": WAIT_S}
                    ) as response:
                        state = msgspec.json.decode(await response.read(), type=SidecarState)
                except (aiohttp.ClientError, OSError, msgspec.DecodeError):
                    await asyncio.sleep(PACE_S)
                    continue
                revision = state.revision
                self._served[name] = replace(self._served[name], state=state)
                await asyncio.sleep(PACE_S)
