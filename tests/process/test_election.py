"""The election has a thread of its own: what keeps the operator's loop busy loses no Lease."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, cast

import pytest

from batchwright_operator.process import election as module
from batchwright_operator.process.election import Election
from tests.process.test_lease import OneLease


class LeaseClient(OneLease):
    """A client that the election makes for itself in its thread."""

    threads: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.threads = []

    async def __aenter__(self) -> LeaseClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    async def replace(self, *args: Any, **kwargs: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        return await super().replace(*args, **kwargs)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> LeaseClient:
    client = LeaseClient()
    monkeypatch.setattr(module, "ApiClient", lambda credentials: client)
    monkeypatch.setattr("batchwright_operator.process.lease.RETRY_S", 0.05)
    return client


def election(silent_s: float = 0.0) -> Election:
    return Election(cast(Any, None), "n", "lease", "me", silent_s=lambda: silent_s)


async def test_the_lease_is_renewed_while_the_loop_is_kept_busy(api: LeaseClient) -> None:
    elected, led = election(), asyncio.Event()

    async def lead() -> None:
        led.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(elected.run(lead))
    await led.wait()
    before = api.version
    end = time.monotonic() + 60
    while api.version == before:
        assert time.monotonic() < end
        time.sleep(0.01)  # noqa: ASYNC251 - that the loop does not turn must not matter
    assert set(api.threads) == {"election"}
    assert elected.leads()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert api.holder == "", "released at the end"
    assert not elected.leads()


async def test_what_ends_the_leader_is_raised(api: LeaseClient) -> None:
    async def lead() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await election().run(lead)
    assert api.holder == ""


async def test_a_leader_that_lost_its_lease_is_stopped_in_its_own_loop(
    api: LeaseClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchwright_operator.process.lease.RENEW_S", 0.3)
    led, stopped = asyncio.Event(), asyncio.Event()

    async def lead() -> None:
        led.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    elected = election()
    running = asyncio.ensure_future(elected.run(lead))
    await led.wait()
    api.down = True
    async with asyncio.timeout(60):
        await stopped.wait()
    assert not elected.leads()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_replica_whose_loop_does_not_come_round_does_not_lead(api: LeaseClient) -> None:
    async def lead() -> None:
        raise AssertionError("it must not")

    running = asyncio.ensure_future(election(silent_s=1000.0).run(lead))
    await asyncio.sleep(0.3)
    assert api.stored is None
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
