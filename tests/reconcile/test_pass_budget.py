"""What all passes together may take: nothing is put off while they are few, and a storm of them is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.reconcile.pass_budget import BURST_S, REST_MAX_S, SHARE, PassBudget


def test_few_passes_never_rest() -> None:
    budget = PassBudget(0.0)
    assert [budget.take(0.01, float(second)) for second in range(100)] == [0.0] * 100
    assert budget.take(BURST_S / 2, 100.0) == 0.0, "nor does what comes at once"


@pytest.mark.parametrize("pass_s", [0.0005, 0.002, 0.02])
@pytest.mark.parametrize("keys", [20, 100, 500])
def test_a_storm_takes_its_share_and_no_more(keys: int, pass_s: float) -> None:
    """All keys change all the time; whoever rests least is next."""
    budget, now, taken, due = PassBudget(0.0), 0.0, 0.0, dict.fromkeys(range(keys), 0.0)
    while now < 60.0:
        key = min(due, key=lambda each: due[each])
        now = max(now, due[key]) + pass_s
        due[key] = now + budget.take(pass_s, now)
        taken += pass_s
    wanted = keys * pass_s / REST_MAX_S  # of a core, with a pass of each as late as may be
    assert taken <= BURST_S + 60.0 * max(SHARE, wanted) * 1.1


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 2))))
def test_nobody_rests_for_longer_than_the_bound(passes: list[tuple[float, float]]) -> None:
    budget, now = PassBudget(0.0), 0.0
    for pause_s, spent_s in passes:
        now += pause_s
        assert 0.0 <= budget.take(spent_s, now) <= REST_MAX_S + 1e-9
    assert budget.take(0.0, now + REST_MAX_S + BURST_S / SHARE) == 0.0, "afterwards all is as before"
