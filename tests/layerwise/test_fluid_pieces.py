"""A fluid fetch made of pieces: the timeline's closed form against the fetch done piece by piece."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.layerwise.core.policy import Fifo
from batchwright_worker.layerwise.core.prefetch import better_prefetch
from batchwright_worker.layerwise.core.rollout import Head, Way
from batchwright_worker.layerwise.core.timeline import Timeline
from batchwright_worker.layerwise.core.values import Candidate, Layer, ModelRequest, Prefetch
from batchwright_worker.layerwise.memory.ring import Ring
from tests.layerwise.instances import plan

BUDGET = 12
LAYERS = st.lists(
    st.builds(
        lambda compute, per_byte, size: Layer(compute=compute, fetch=per_byte * size, bytes=size),
        st.integers(0, 30),
        st.integers(0, 5),
        st.integers(0, BUDGET),
    ),
    min_size=1,
    max_size=12,
)


def by_pieces(layers: list[Layer], piece: int) -> list[tuple[int, int]]:
    """(fetch end, compute end) of each layer."""
    held: list[tuple[int, int]] = []  # (end of compute, bytes) of all before
    memory_free = compute_free = 0
    ends = []
    for layer in layers:
        at, moved = memory_free, 0
        while moved < layer.bytes:
            size = min(piece, layer.bytes - moved)
            frees = sorted(end for end, _ in held)
            for free in [at, *[end for end in frees if end > at]]:
                used = sum(bytes_ for end, bytes_ in held if end > free)
                if used + moved + size <= BUDGET:
                    at = free
                    break
            at += layer.fetch * size // layer.bytes
            moved += size
        at += layer.fetch if not layer.bytes else 0
        memory_free = at
        compute_free = max(compute_free, at) + layer.compute
        held.append((compute_free, layer.bytes))
        ends.append((memory_free, compute_free))
    return ends


@given(layers=LAYERS, piece=st.integers(1, BUDGET))
def test_the_closed_form_is_the_fetch_piece_by_piece(layers: list[Layer], piece: int) -> None:
    timeline = Timeline(BUDGET, prefetch=Prefetch.FLUID, piece_bytes=piece)
    placed = [timeline.push(layer, 0) for layer in layers]
    assert [(each.fetch_end, each.compute_end) for each in placed] == by_pieces(layers, piece)


@given(layers=LAYERS, piece=st.integers(1, BUDGET))
def test_rollouts_recurrence_is_the_timelines(layers: list[Layer], piece: int) -> None:
    timeline = Timeline(BUDGET, prefetch=Prefetch.FLUID, piece_bytes=piece)
    request = ModelRequest(model="m", layers=tuple(layers), arrival=0, order=0)
    way = Way(timeline, [Head(Candidate(request=request), len(layers))])
    for layer in layers:
        way.put(0)
        assert way.compute_free == timeline.push(layer, 0).compute_end


@given(layers=LAYERS)
def test_pieces_as_large_as_the_layers_are_whole_fetches(layers: list[Layer]) -> None:
    whole, pieces = Timeline(BUDGET), Timeline(BUDGET, prefetch=Prefetch.FLUID, piece_bytes=BUDGET)
    for layer in layers:
        assert whole.push(layer, 0) == pieces.push(layer, 0)


@given(layers=LAYERS)
def test_the_timelines_room_is_the_rings(layers: list[Layer]) -> None:
    """C7: mapped twice in a row, the memory wastes nothing at its end: whenever the plan says that a unit has room and
    not before, the ring has it."""
    ring = Ring(BUDGET)
    request = ModelRequest(model="m", layers=tuple(layers), arrival=0, order=0)
    steps = plan(Fifo(), BUDGET, [request])
    retired = 0
    for number, step in enumerate(steps):
        size = layers[number].bytes
        earliest = steps[number - 1].placement.fetch_end if number else 0
        while retired < number and steps[retired].placement.compute_end <= earliest:
            ring.retire()
            retired += 1
        while not ring.fits(size):
            earliest = max(earliest, steps[retired].placement.compute_end)
            ring.retire()
            retired += 1
        if size:
            assert step.placement.fetch_start == earliest
        ring.place(size)


def test_fluid_fetches_are_chosen_where_the_plan_gains_by_them() -> None:
    tight = [[Layer(compute=60, fetch=10, bytes=3)] * 6, [Layer(compute=10, fetch=60, bytes=6)] * 6]
    assert better_prefetch(tight, 8, 1) is Prefetch.FLUID
    assert better_prefetch(tight, 8, 6) is Prefetch.WHOLE, "a unit is one piece"
    assert better_prefetch(tight, 1000, 1) is Prefetch.WHOLE, "nothing ever waits for room"
