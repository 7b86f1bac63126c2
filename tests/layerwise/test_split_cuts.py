"""Where networks are cut: every operation once, units within the limit, residual blocks whole."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.layerwise.networks.cuts import Operation, Span, aligned, boundaries, cut, weight_bytes


def operation(index: int, reads: set[int], size: int, *, matrix: bool) -> Operation:
    weights = {f"w{index}": size} if size else {}
    return Operation(
        reads=frozenset(f"v{read}" for read in reads),
        writes=(f"v{index}",),
        weights=weights,
        matrices=frozenset(weights) if matrix else frozenset(),
    )


def chain(*sizes: int, skips: dict[int, int] | None = None) -> list[Operation]:
    """Each reads the one before; `skips`: also this earlier one."""
    return [
        operation(index, {index - 1, (skips or {}).get(index, index - 1)} - {-1}, size, matrix=size > 0)
        for index, size in enumerate(sizes)
    ]


@st.composite
def graphs(draw: st.DrawFn) -> list[Operation]:
    count = draw(st.integers(1, 30))
    return [
        operation(
            index,
            draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set(),
            draw(st.integers(0, 500)),
            matrix=draw(st.booleans()),
        )
        for index in range(count)
    ]


@given(operations=graphs(), limit=st.integers(1, 3000))
def test_every_operation_is_in_one_unit_in_order_and_units_keep_the_limit(
    operations: list[Operation], limit: int
) -> None:
    spans = cut(operations, limit)
    assert [index for span in spans for index in range(span.start, span.stop)] == list(range(len(operations)))
    for span in spans:
        matrices = [each for each in operations[span.start : span.stop] if each.matrices]
        heavy = sum(aligned(sum(each.weights.values())) for each in matrices)
        assert heavy <= limit or len(matrices) <= 1
    held = [any(each.matrices for each in operations[span.start : span.stop]) for span in spans]
    assert all(held) or len(spans) == 1


def test_a_residual_block_stays_whole_and_what_has_no_weights_goes_backwards() -> None:
    operations = chain(100, 100, 0, 100, 0, 100, 0, 100, 100, skips={4: 0})
    assert boundaries(operations) == [1, 2, 2, 2, 1, 1, 1, 1]
    spans = [(span.start, span.stop) for span in cut(operations, 1 << 20)]
    assert spans == [(0, 1), (1, 5), (5, 7), (7, 8), (8, 9)]


def test_a_block_above_the_limit_is_cut_where_the_least_is_alive() -> None:
    operations = chain(0, 512, 512, 512, 512, 512, 512, 512, 512, 512, skips={4: 0})
    spans = cut(operations, 1024)
    assert [weight_bytes(operations, span) for span in spans] == [1024, 1024, *[512] * 5]


def test_a_mask_that_lives_throughout_does_not_stand_in_the_way() -> None:
    operations = [operation(0, set(), 0, matrix=False)]
    operations += [operation(index, {0, index - 1}, 100, matrix=True) for index in range(1, 8)]
    assert len(cut(operations, 1 << 20)) == 7


@given(operations=graphs(), limit=st.integers(1, 6000), least=st.integers(0, 3000))
def test_small_units_are_put_together_within_the_limit(operations: list[Operation], limit: int, least: int) -> None:
    """Finding 15: starting a fetch would be most of it."""
    alone, together = cut(operations, limit), cut(operations, limit, least_bytes=least)
    assert {span.start for span in together} <= {span.start for span in alone}
    assert [index for span in together for index in range(span.start, span.stop)] == list(range(len(operations)))
    for one, other in itertools.pairwise(together):
        small = min(weight_bytes(operations, one), weight_bytes(operations, other)) < least
        assert not small or weight_bytes(operations, Span(one.start, other.stop)) > limit
    assert all(span in alone or weight_bytes(operations, span) <= limit for span in together)
