"""The circuit breaker, on a clock of its own."""

from __future__ import annotations

import asyncio

import pytest

from batchwright_operator.errors import Unavailable
from batchwright_operator.kube.circuit_breaker import LAST_DELAY_S, RBAC_GRACE_S, THRESHOLD, CircuitBreaker

AWAY = Unavailable("the server is starting")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(clock)
    for _ in range(THRESHOLD):
        breaker.check()
        breaker.failed(AWAY)
    return breaker


async def test_some_failures_in_a_row_open_it() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for _ in range(THRESHOLD - 1):
        breaker.failed(AWAY)
    breaker.succeeded()
    breaker.failed(AWAY)
    assert not breaker.is_open
    with pytest.raises(Unavailable, match="next try is due soon: the server is starting"):
        opened(clock).check()


async def test_open_it_lets_one_probe_through_per_delay() -> None:
    clock = Clock()
    breaker = opened(clock)
    tried = 0
    for _ in range(6000):  # a minute in steps of 10 ms
        clock.now += 0.01
        try:
            breaker.check()
        except Unavailable:
            continue
        tried += 1
        breaker.failed(AWAY)
    assert 60 / LAST_DELAY_S <= tried <= 3 * 60 / LAST_DELAY_S


async def test_one_waiter_is_let_through_as_the_probe_and_the_rest_when_it_succeeds() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += LAST_DELAY_S
    waiting = [asyncio.ensure_future(breaker.ready()) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(one.done() for one in waiting) == 1
    breaker.check()
    with pytest.raises(Unavailable):
        breaker.check()
    breaker.succeeded()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize(("after_s", "is_open"), [(1.0, True), (RBAC_GRACE_S + 1, False)])
async def test_forbidden_counts_as_a_failure_only_soon_after_an_outage(after_s: float, is_open: bool) -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += after_s
    breaker.forbidden(AWAY)
    assert breaker.is_open is is_open


async def test_forbidden_without_an_outage_is_a_success() -> None:
    breaker = CircuitBreaker(Clock())
    for _ in range(3 * THRESHOLD):
        breaker.forbidden(AWAY)
    assert not breaker.is_open


async def test_it_waits_as_long_as_the_server_asks() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += LAST_DELAY_S
    breaker.check()
    breaker.failed(AWAY, retry_after_s=8.0)
    clock.now += 3.9
    with pytest.raises(Unavailable):
        breaker.check()
