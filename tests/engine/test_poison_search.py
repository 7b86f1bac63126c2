"""A request that kills its runtime is found by halving; its batch-mates are answered."""

from __future__ import annotations

import asyncio
import math
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchwright_worker.engine.poison_search import MOST_ALONE, MOST_IN_A_ROW, PoisonSearch
from batchwright_worker.inference.errors import ModelFailed
from batchwright_worker.inference.requests import InferResult
from batchwright_worker.scheduler.queues import IsolatedBucket
from tests.engine.devices import POISON, FakeDevice, engine_of, model, request
from tests.engine.virtual import run


@given(st.integers(1, 64), st.data())
def test_one_killer_among_many_is_found_and_nobody_else_is_blamed(requests: int, data: st.DataObject) -> None:
    killer = data.draw(st.integers(0, requests - 1))
    search, alone, deaths = PoisonSearch(), [0] * requests, 0
    answered: set[int] = set()
    batches: list[list[int]] = [list(range(requests))]
    guilty: list[int] = []
    while batches:
        batch = batches.pop(0)
        if killer not in batch:
            search.ran("m")
            answered.update(batch)
            continue
        deaths += 1
        decision = search.lost("m", (), [alone[one] for one in batch])
        for one in batch:
            alone[one] += decision.alone
        if decision.fails:
            guilty += batch
        first = decision.sizes[0] if decision.sizes else 0
        batches += [part for part in (batch[:first], batch[first:]) if part and not decision.fails]
    assert guilty == [killer]
    assert answered == set(range(requests)) - {killer}
    assert deaths <= math.ceil(math.log2(requests)) + 2


@given(st.lists(st.integers(0, 1), min_size=2, max_size=40))
def test_halves_are_apart_and_hold_all(alone_before: list[int]) -> None:
    decision = PoisonSearch().lost("m", IsolatedBucket(("wide",), 7), alone_before)
    assert sum(decision.sizes) == len(alone_before)
    assert max(decision.sizes) - min(decision.sizes) <= 1
    assert len(set(decision.buckets)) == 2
    assert all(isinstance(bucket, IsolatedBucket) and bucket.shape == ("wide",) for bucket in decision.buckets)


@pytest.mark.parametrize("requests", [1, 2, 5])
def test_what_was_lost_beside_others_is_tried_as_it_is_and_was_not_alone(requests: int) -> None:
    decision = PoisonSearch().lost("m", (), [1] * requests, beside=True)
    assert not decision.fails
    assert not decision.alone
    assert decision.sizes == (requests,)


def test_the_search_ends_where_everything_kills() -> None:
    search = PoisonSearch()
    reasons = [search.lost("m", (), [0, 0]).reason for _ in range(MOST_IN_A_ROW)]
    assert set(reasons[:-1]) == {""}
    assert "16 times in a row" in reasons[-1]
    search.ran("m")
    assert not search.lost("m", (), [0, 0]).fails


class Deaths(FakeDevice):
    """Counts how often it died."""

    def die(self, back_after_s: float = 0.005) -> None:
        self.deaths = getattr(self, "deaths", 0) + self.up
        super().die(back_after_s)


@pytest.mark.parametrize("at", [0, 7, 24])
def test_a_poison_request_takes_no_batch_mate_along(at: int) -> None:
    async def scenario() -> None:
        device = Deaths()
        engine = engine_of([model(initial_size=32)], device)
        await engine.start()
        values = [POISON if i == at else float(i) for i in range(25)]
        answers = await asyncio.gather(
            *(engine.infer(request(engine, value)) for value in values), return_exceptions=True
        )
        for value, answer in zip(values, answers, strict=True):
            if value == POISON:
                assert isinstance(answer, ModelFailed)
                assert "quarantined" in str(answer)
            else:
                assert isinstance(answer, InferResult)
                assert answer.outputs["y"][0, 0] == value * 10
        assert device.deaths <= math.ceil(math.log2(25)) + 2
        assert device.violations == []
        await engine.close()

    run(scenario())


def test_alone_it_is_answered_after_two_dead_runtimes() -> None:
    async def scenario() -> None:
        device = Deaths()
        engine = engine_of([model()], device)
        await engine.start()
        with pytest.raises(ModelFailed, match="quarantined"):
            await engine.infer(request(engine, POISON))
        assert device.deaths == MOST_ALONE
        await engine.close()

    run(scenario())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(50, 120), min_size=1, max_size=4))
def test_runtimes_killed_from_outside_fail_no_innocent_beside_others(gaps_ms: list[int]) -> None:
    """Four losses at most cannot meet one request alone twice: they come while 20 requests are searched through."""

    async def scenario() -> None:
        device = FakeDevice()
        engine = engine_of([model(initial_size=32)], device)
        await engine.start()
        for kill_ms in accumulate(gaps_ms):
            asyncio.get_running_loop().call_later(kill_ms / 1e3 - 0.045, device.die)
        answers = await asyncio.gather(*(engine.infer(request(engine, float(i))) for i in range(20)))
        assert [answer.outputs["y"][0, 0] for answer in answers] == [10.0 * i for i in range(20)]
        await engine.close()

    run(scenario())
