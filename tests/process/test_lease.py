"""The Lease: one leader at a time, whatever the clocks of the machines say."""

from __future__ import annotations

import asyncio
import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.errors import AlreadyExists, ApiError, Conflict, NotFound, Unavailable
from batchwright_operator.kube.objects import Raw, Resource
from batchwright_operator.process.lease import DURATION_S, RENEW_S, Elector, ObservedLease, identity_of, lease_body


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class OneLease:
    """The API server's part: a single object with optimistic locking."""

    def __init__(self) -> None:
        self.stored: Raw | None = None
        self.version = 0
        self.down = False
        self.lose_answers = False

    async def get(self, resource: Resource, namespace: str, name: str, *, urgent: bool = False) -> Raw:
        self._up()
        if self.stored is None:
            raise NotFound("no such lease", code=404)
        return copy.deepcopy(self.stored)

    async def create(self, resource: Resource, body: Raw, *, urgent: bool = False) -> Raw:
        self._up()
        if self.stored is not None:
            raise AlreadyExists("there is one", code=409)
        return self._put(body)

    async def replace(self, resource: Resource, body: Raw, *, urgent: bool = False) -> Raw:
        self._up()
        if self.stored is None or body["metadata"]["resourceVersion"] != self.stored["metadata"]["resourceVersion"]:
            raise Conflict("changed meanwhile", code=409)
        return self._put(body)

    @property
    def holder(self) -> str:
        assert self.stored is not None
        return str(self.stored["spec"]["holderIdentity"])

    def _put(self, body: Raw) -> Raw:
        self.version += 1
        metadata = body["metadata"] | {"resourceVersion": str(self.version)}
        self.stored = copy.deepcopy(body | {"metadata": metadata})
        if self.lose_answers:
            raise Unavailable("the answer was lost")
        return copy.deepcopy(self.stored)

    def _up(self) -> None:
        if self.down:
            raise Unavailable("nobody answers")


def elector(api: OneLease, identity: str, clock: Clock, skew_s: float = 0.0) -> Elector:
    return Elector(api, "n", "lease", identity, clock=clock, now=lambda: clock.now + skew_s)


async def test_the_first_takes_it_and_the_second_waits_for_its_whole_duration() -> None:
    api, clock = OneLease(), Clock()
    first, second = elector(api, "a", clock), elector(api, "b", clock)
    assert await first.try_once()
    assert not await second.try_once()
    clock.now += DURATION_S
    assert not await second.try_once(), "the duration has not passed yet"
    clock.now += 0.1
    assert await second.try_once()
    assert api.stored is not None
    assert (api.holder, api.stored["spec"]["leaseTransitions"]) == ("b", 1)


@pytest.mark.parametrize("skew_s", [-3600.0, 0.0, 3600.0])
async def test_a_holder_that_renews_is_never_robbed_by_a_skewed_clock(skew_s: float) -> None:
    api, clock = OneLease(), Clock()
    first, second = elector(api, "a", clock, skew_s), elector(api, "b", clock)
    for _ in range(30):
        assert await first.try_once()
        assert not await second.try_once()
        clock.now += RENEW_S - 0.1


async def test_a_leader_that_cannot_renew_ends_before_anyone_else_may_begin() -> None:
    api, clock = OneLease(), Clock()
    first, second = elector(api, "a", clock), elector(api, "b", clock)
    assert await first.try_once()
    assert not await second.try_once()
    clock.now += RENEW_S
    assert not first.leads
    assert not await second.try_once()


async def test_a_leader_is_sure_only_from_the_moment_it_asked() -> None:
    api, clock = OneLease(), Clock()
    slow = api.create

    async def answer_late(resource: Resource, body: Raw, *, urgent: bool = False) -> Raw:
        clock.now += 3.0  # the API server was slow
        return await slow(resource, body)

    api.create = answer_late  # type: ignore[method-assign]
    first = elector(api, "a", clock)
    assert await first.try_once()
    clock.now += RENEW_S - 3.0
    assert not first.leads


async def test_a_lost_answer_is_found_out_by_looking() -> None:
    api, clock = OneLease(), Clock()
    first = elector(api, "a", clock)
    api.lose_answers = True
    assert not await first.try_once()
    api.lose_answers = False
    assert await first.try_once()
    assert api.holder == "a"


async def test_a_released_lease_is_taken_at_once() -> None:
    api, clock = OneLease(), Clock()
    first, second = elector(api, "a", clock), elector(api, "b", clock)
    led = asyncio.Event()

    async def lead() -> None:
        led.set()
        await asyncio.Event().wait()

    running = asyncio.ensure_future(first.run(lead))
    await led.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert api.holder == ""
    assert await second.try_once()


async def test_a_deposed_leader_is_stopped() -> None:
    api, clock = OneLease(), Clock()
    first = elector(api, "a", clock)
    led, stopped = asyncio.Event(), asyncio.Event()

    async def lead() -> None:
        led.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    running = asyncio.ensure_future(first.run(lead))
    await led.wait()
    api.down = True
    clock.now += RENEW_S
    async with asyncio.timeout(60):
        await stopped.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert api.holder == "a", "what is not ours for certain is not released"


async def test_an_error_of_the_leader_is_raised_and_the_lease_released() -> None:
    api, clock = OneLease(), Clock()

    async def lead() -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        await elector(api, "a", clock).run(lead)
    assert api.holder == ""


async def test_a_container_that_starts_again_does_not_wait_for_the_lease_of_the_one_before() -> None:
    api, clock = OneLease(), Clock()
    before, after, other = (elector(api, identity_of("host", pod, boot), clock)
                            for pod, boot in (("pod-a", "1"), ("pod-a", "2"), ("pod-b", "3")))  # fmt: skip
    assert await before.try_once()
    assert not await other.try_once()
    assert await after.try_once()


async def test_two_processes_of_one_host_are_not_taken_for_one_pod() -> None:
    api, clock = OneLease(), Clock()
    one, another = (elector(api, identity_of("host", "", boot), clock) for boot in "12")
    assert await one.try_once()
    assert not await another.try_once()


async def test_a_replica_that_is_not_well_neither_takes_nor_renews_the_lease() -> None:
    api, clock = OneLease(), Clock()
    well = [False]
    sick = Elector(api, "n", "lease", "a", clock=clock, now=clock, is_well=lambda: well[0])
    assert not await sick.try_once()
    well[0] = True
    assert await sick.try_once()
    well[0] = False
    clock.now += RENEW_S
    assert not await sick.try_once()
    assert not sick.leads


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("ab"), st.floats(0.1, 8.0), st.sampled_from(["ok", "ok", "ok", "down", "lost"])),
        max_size=60,
    )
)
def test_never_two_leaders(steps: list[tuple[str, float, str]]) -> None:
    async def play() -> None:
        api, clock = OneLease(), Clock()
        electors = {"a": elector(api, "a", clock, 500.0), "b": elector(api, "b", clock, -500.0)}
        for who, pause, weather in steps:
            clock.now += pause
            api.down, api.lose_answers = weather == "down", weather == "lost"
            await electors[who].try_once()
            assert not (electors["a"].leads and electors["b"].leads)

    asyncio.run(play())


def test_a_record_that_changes_counts_as_renewed_whatever_time_it_names() -> None:
    observed = ObservedLease()
    old = lease_body(None, namespace="n", name="l", identity="x", at=0.0)
    observed.see(old, 10.0)
    observed.see(old, 15.0)
    assert observed.since == 10.0
    observed.see(lease_body(old, namespace="n", name="l", identity="x", at=-99.0), 16.0)
    assert not observed.may_take("y", 16.0 + DURATION_S)
    assert observed.may_take("y", 16.1 + DURATION_S)


async def test_without_its_namespace_nobody_leads_and_nothing_breaks() -> None:
    api, clock = OneLease(), Clock()

    async def refuse(resource: Resource, body: Raw, *, urgent: bool = False) -> Raw:
        raise NotFound('namespaces "n" not found', code=404)

    api.create = refuse  # type: ignore[method-assign]
    assert not await elector(api, "a", clock).try_once()
    assert issubclass(NotFound, ApiError)
