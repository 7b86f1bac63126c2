"""Every schedule is possible, and its idle times are its gaps (layerwise.md, acceptance 1 and 2).

The validator shares no code with the timeline; `test_the_validator_sees_...` shows that it can say no.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given, seed, settings

from batchwright_worker.layerwise.core.policy import Fifo
from batchwright_worker.layerwise.core.scheduler import LayerStep
from batchwright_worker.layerwise.core.values import BudgetTooSmall, Prefetch
from batchwright_worker.layerwise.tools.instance import Instance, LayerDocument, RequestDocument
from batchwright_worker.layerwise.tools.validator import violations
from tests.layerwise.instances import GOLDEN, layers, plan, requests
from tests.layerwise.strategies import Case, case_of, cases, lying


def check_case(case: Case) -> None:
    """The schedule has no violation; makespan and last fetch are what the idle times add up to."""
    steps = plan(case.policy(), case.budget, case.requests, case.prefetch)
    found = violations(
        lying(steps),
        budget_bytes=case.budget,
        lengths=[len(request.layers) for request in case.requests],
        fluid=case.prefetch is Prefetch.FLUID,
    )
    assert found == []
    check_sums(case, steps)


def check_sums(case: Case, steps: Sequence[LayerStep]) -> None:
    """Estimates equal outcomes, makespan = sum c + sum IC, last Me = sum w + sum IM + what no request was there for."""
    waited, fetched = 0, 0
    for decision, placement in steps:
        assert placement.idle == decision.idle
        waited += max(0, decision.request.arrival - fetched)
        fetched = placement.fetch_end
    compute = sum(step.decision.layer.compute + step.placement.idle.compute for step in steps)
    fetch = sum(step.decision.layer.fetch + step.placement.idle.memory for step in steps)
    assert steps[-1].placement.compute_end == compute
    assert fetched == fetch + waited
    if all(request.arrival == 0 for request in case.requests):
        assert waited == 0


ROUNDED = case_of(
    Instance(
        budget_bytes=6,
        prefetch="fluid",
        policy="literal",
        skip_limit=0,
        models={
            "m0": [
                LayerDocument(compute=6.0, fetch=0.0, bytes=0),
                LayerDocument(compute=1.0, fetch=0.0, bytes=0),
                LayerDocument(compute=1.0, fetch=0.0, bytes=1),
                LayerDocument(compute=0.0, fetch=7.0, bytes=5),
            ]
        },
        requests=[RequestDocument(model="m0")],
    )
)
"""Its last fetch fills memory exactly when it ends; in floating point next to nothing seemed to be missing."""

TIED = case_of(
    Instance(
        budget_bytes=1,
        prefetch="fluid",
        policy="literal",
        skip_limit=0,
        models={
            "m0": [
                LayerDocument(compute=5.0, fetch=1.688, bytes=1),
                LayerDocument(compute=0.0, fetch=0.688, bytes=0),
                LayerDocument(compute=1.0, fetch=0.0, bytes=1),
            ]
        },
        requests=[RequestDocument(model="m0")] * 2,
    )
)
"""Times that tie on paper (ends of computes and of a fetch at 6.688) were not equal as sums of floats."""


@settings(max_examples=60, deadline=None)
@given(cases())
@example(ROUNDED)
@example(TIED)
def test_every_schedule_is_possible_and_its_idle_times_are_its_gaps(case: Case) -> None:
    check_case(case)


@pytest.mark.slow
@settings(max_examples=2500, deadline=None)
@given(cases())
@example(ROUNDED)
@example(TIED)
def test_thousands_of_schedules_are_possible(case: Case) -> None:
    check_case(case)


SLICES = 20


@pytest.mark.soak
@pytest.mark.parametrize("part", range(SLICES))
def test_a_hundred_thousand_schedules_are_possible(part: int) -> None:
    """A free search in slices, each with examples of its own; what it finds becomes an @example above."""

    @seed(secrets.randbits(64))
    @settings(max_examples=100_000 // SLICES, deadline=None, derandomize=False, print_blob=True)
    @given(cases())
    def search(case: Case) -> None:
        check_case(case)

    search()


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(cases(at_once=True))
def test_schedules_of_requests_at_once_are_possible(case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("prefetch", Prefetch)
def test_a_layer_larger_than_the_budget_is_refused_by_name(prefetch: Prefetch) -> None:
    models = {"big": layers((1, 1, 2), (1, 1, 7))}
    with pytest.raises(BudgetTooSmall, match=r"layer 1 of model big has 7 bytes, more than the budget of 6"):
        plan(Fifo(), 6, requests(models), prefetch)


def test_a_layer_as_large_as_the_budget_runs() -> None:
    steps = plan(Fifo(), 7, requests({"big": layers((1, 2, 7), (1, 2, 7))}))
    assert [step.placement.fetch_start for step in steps] == [0, 3]


GOOD = lying(plan(Fifo(), 6, requests(GOLDEN)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"compute_start": 30, "compute_end": 31}, "compute waits"),
        ({"fetch_start": 5, "fetch_end": 9, "memory_idle": 0}, "bytes are held"),
        (
            {"fetch_start": 17, "fetch_end": 21, "memory_idle": 8, "compute_start": 21, "compute_end": 22},
            "waits, though",
        ),
        ({"memory_idle": 1}, "memory waits"),
        ({"position": 0}, "do not come once each"),
        ({"compute_start": 17, "compute_end": 18}, "computed before it is fetched"),
        ({"fetch_end": 17}, "fetches for another time"),
    ],
)
def test_the_validator_sees_what_is_wrong(change: dict[str, float], words: str) -> None:
    wrong = [*GOOD[:4], replace(GOOD[4], **change), GOOD[5]]  # type: ignore[arg-type]
    found = violations(wrong, budget_bytes=6, lengths=[3, 3])
    assert any(words in sentence for sentence in found), found


def test_the_validator_sees_a_fluid_fetch_that_ends_too_early() -> None:
    steps = lying(plan(Fifo(), 6, requests(GOLDEN), Prefetch.FLUID))
    assert violations(steps, budget_bytes=6, lengths=[3, 3], fluid=True) == []
    early = replace(steps[4], fetch_end=15, memory_idle=4)
    assert any(
        "would end at 16" in sentence
        for sentence in violations([*steps[:4], early, steps[5]], budget_bytes=6, lengths=[3, 3], fluid=True)
    )
