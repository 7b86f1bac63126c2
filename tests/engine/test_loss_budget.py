"""What a model may cost the others of its device, and its rests."""

from __future__ import annotations

import pytest

from batchwright_worker.engine.loss_budget import BURST_S, FIRST_REST_S, MOST_REST_S, SHARE, LossBudget


def test_a_single_crash_costs_no_rest() -> None:
    budget = LossBudget()
    budget.lost("m", 0.4, 0.0)
    assert budget.rest_s("m") == 0.0
    assert budget.rest_s("never lost") == 0.0


def test_what_is_beyond_the_burst_is_rested_off() -> None:
    budget = LossBudget()
    budget.lost("m", BURST_S + 0.2, 0.0)
    assert budget.rest_s("m") == pytest.approx(0.2 / SHARE)


def test_rests_grow_up_to_a_bound_and_are_forgotten_with_the_debt() -> None:
    budget, now = LossBudget(), 0.0
    rests = []
    for _ in range(8):
        budget.lost("m", 1000.0, now)
        rests.append(budget.rest_s("m"))
    assert rests == [FIRST_REST_S * 2**n for n in range(5)] + [MOST_REST_S] * 3
    budget.lost("m", 1000.0, 1e9)
    assert budget.rest_s("m") == FIRST_REST_S


def test_in_the_long_run_losses_take_their_share_of_the_time() -> None:
    budget, now, lost_s = LossBudget(), 0.0, 0.0
    while now < 20_000:
        now += 2.6
        lost_s += 2.6
        budget.lost("m", 2.6, now)
        now += budget.rest_s("m")
    assert lost_s / now < 1.5 * SHARE
