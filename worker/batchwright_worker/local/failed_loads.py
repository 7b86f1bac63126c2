"""Does a sidecar say again and again that a model cannot be loaded? Nobody will mend that here while a job waits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from typing import Final

import aiohttp
import msgspec

from batchwright_worker.api.messages import SidecarState
from batchwright_worker.local.processes import LocalServing

LOOK_SECONDS: Final = 1.0
LOOKS: Final = 3
"""A load that failed is tried again at once, and then after growing pauses: so long is no accident."""


async def failed_for_good(deployment: str, here: LocalServing, models: Collection[str]) -> str:
    """Returns when one of these models has failed to load for several looks, with its reason."""
    failed: dict[str, int] = {}
    async with aiohttp.ClientSession(headers=here.authorization) as session:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            for name, message in _failures(await _state(session, here), models):
                failed[name] = failed.get(name, 0) + 1
                if failed[name] >= LOOKS:
                    return f"model {deployment}/{name} cannot be loaded: {message}"


def _failures(state: SidecarState | None, models: Collection[str]) -> Iterator[tuple[str, str]]:
    for model in state.models if state is not None else ():
        if model.name in models and model.state == "Failed":
            yield model.name, model.message


async def _state(session: aiohttp.ClientSession, here: LocalServing) -> SidecarState | None:
    try:
        async with session.get(here.state_url) as response:
            return msgspec.json.decode(await response.read(), type=SidecarState)
    except (aiohttp.ClientError, OSError, msgspec.MsgspecError):  # it starts, or ends: others see that
        return None
