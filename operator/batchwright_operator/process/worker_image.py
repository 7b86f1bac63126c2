"""The image of all pods that the operator makes: where no setting names it, the one that the agents run.

So an installation names it once, in a field that kustomize's `images`, image updaters and mirrors know.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from batchwright_operator.errors import ApiError, NotFound
from batchwright_operator.kube.client import ApiClient
from batchwright_operator.kube.objects import DAEMON_SET
from batchwright_operator.reconcile.workqueue import backoff_s
from batchwright_operator.settings import Settings

logger = logging.getLogger(__name__)

AGENTS: Final = "batchwright-agent"
LOOK_S: Final = 20.0
"""How often a change of the agents' image is looked for."""


async def with_worker_image(settings: Settings, client: ApiClient) -> Settings:
    """The settings with `worker_image`; waits for the agents' DaemonSet where it has to come from there."""
    if settings.worker_image:
        return settings
    failures = 0
    while True:
        try:
            image = await _image_of_agents(settings, client)
            logger.info("the worker image is %s, as the agents run it", image)
            return msgspec.structs.replace(settings, worker_image=image)
        except ApiError as error:
            failures += 1
            place = f"{settings.agent_namespace}/{AGENTS}"
            what = "is not there yet" if isinstance(error, NotFound) else f"cannot be read: {error}"
            logger.warning("DaemonSet %s, whose image models run in, %s; or set workerImage", place, what)
            await asyncio.sleep(backoff_s(failures, 0.5, first_s=0.5, last_s=5.0))


async def agents_run_another(settings: Settings, client: ApiClient) -> None:
    """Returns once the agents' image is no longer the one in the settings, so that the operator can start anew."""
    while True:
        await asyncio.sleep(LOOK_S)
        try:
            image = await _image_of_agents(settings, client)
        except ApiError as error:
            logger.debug("the agents' image: %s; looked at again later", error)
            continue
        if image != settings.worker_image:
            logger.info("the agents run %s by now: starting anew with it as the worker image", image)
            return


async def _image_of_agents(settings: Settings, client: ApiClient) -> str:
    found = await client.get(DAEMON_SET, settings.agent_namespace, AGENTS)
    containers = found["spec"]["template"]["spec"]["containers"]
    return str(next(each["image"] for each in containers if each["name"] == "agent"))
