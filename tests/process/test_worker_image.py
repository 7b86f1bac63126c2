"""Where the worker image comes from, and that the operator follows it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchwright_operator.errors import ApiError, NotFound, Unavailable
from batchwright_operator.kube.objects import DAEMON_SET, Raw, Resource
from batchwright_operator.process import worker_image
from batchwright_operator.process.worker_image import agents_run_another, with_worker_image
from batchwright_operator.settings import Settings


class Api:
    """The API server as far as it is asked: one answer or error after the other, the last one for ever."""

    def __init__(self, *answers: str | ApiError) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[Resource, str, str]] = []

    async def get(self, resource: Resource, namespace: str, name: str) -> Raw:
        self.asked.append((resource, namespace, name))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, ApiError):
            raise answer
        containers = [{"name": "sidecar-of-a-mesh", "image": "mesh:1"}, {"name": "agent", "image": answer}]
        return {"spec": {"template": {"spec": {"containers": containers}}}}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between two looks."""
    slept = asyncio.sleep

    async def briefly(seconds: float) -> None:
        await slept(0)

    monkeypatch.setattr(worker_image.asyncio, "sleep", briefly)


def asked(api: Api) -> Any:
    return api


async def test_the_image_is_that_of_the_agents() -> None:
    api = Api(NotFound("no"), Unavailable("not yet"), "registry.example/worker:1")
    settings = await with_worker_image(Settings(agent_namespace="agents"), asked(api))
    assert settings.worker_image == "registry.example/worker:1"
    assert api.asked == [(DAEMON_SET, "agents", "batchwright-agent")] * 3


async def test_a_setting_wins_and_nobody_is_asked() -> None:
    api = Api("registry.example/worker:1")
    settings = await with_worker_image(Settings(worker_image="mine:1"), asked(api))
    assert (settings.worker_image, api.asked) == ("mine:1", [])


async def test_another_image_of_the_agents_is_noticed_and_an_outage_is_none() -> None:
    api = Api("worker:1", Unavailable("an outage"), NotFound("deleted"), "worker:1", "worker:2")
    await asyncio.wait_for(agents_run_another(Settings(worker_image="worker:1"), asked(api)), 60)
    assert len(api.asked) == 5
