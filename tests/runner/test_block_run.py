"""A block's items fail one by one: what does not depend on a failure runs, whatever the order, for all others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.graph.block_run import BlockRun, ReadItems, TaskResult
from batchwright_worker.runner.graph.block_size import BLOCK_SECONDS, MOST_BLOCK_ITEMS, block_items
from batchwright_worker.runner.graph.block_values import BlockValues
from batchwright_worker.runner.graph.dag import ITEM, Dag
from tests.runner.test_dag import dags

ITEMS = 5


def result(items: list[int]) -> TaskResult:
    return TaskResult(items, values=BlockValues(items, rows=[f"v{item}" for item in items]), nbytes=10 * len(items))


@given(dags(), st.data())
def test_every_item_fails_alone(dag: Dag, draw: st.DataObject) -> None:
    failing = draw.draw(st.sets(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, len(dag.nodes) - 1)), max_size=6))
    unreadable = draw.draw(st.sets(st.integers(0, ITEMS - 1), max_size=2))
    readable = [item for item in range(ITEMS) if item not in unreadable]
    ids = [f"i{item}" for item in range(ITEMS)]
    items_read = ReadItems(ids, result(readable).values, nbytes=10 * len(readable))
    run = BlockRun(dag, 0, ids, items_read, dict.fromkeys(unreadable, "bad"))
    ready, ran = list(dag.roots), set[tuple[int, int]]()
    while ready:
        task = ready.pop(draw.draw(st.integers(0, len(ready) - 1)))
        items = list(run.items(task))
        failed = {item: f"at {task}" for item in items if (item, task) in failing}
        ran |= {(item, task) for item in items}
        ready += run.done(task, result([item for item in items if item not in failed]), failed)
    assert run.finished
    for item in range(ITEMS):
        lost: set[int] = set(range(len(dag.nodes))) if item in unreadable else set()
        for task in range(len(dag.nodes)):
            if any((item, before) in failing or before in lost for before in dag.before[task]):
                lost.add(task)
        assert {task for one, task in ran if one == item} == set(range(len(dag.nodes))) - lost
        errors = [task for task in range(len(dag.nodes)) if (item, task) in failing and task not in lost]
        wanted = (
            (ITEM, "bad") if item in unreadable else (dag.nodes[errors[0]].name, f"at {errors[0]}") if errors else None
        )
        assert run.error(item) == wanted
    assert run.nbytes == 10 * len(readable) + sum(kept.nbytes for _, kept in run.results())


@given(
    st.lists(st.none() | st.floats(1e-7, 10.0), max_size=3),
    st.lists(st.none() | st.floats(0.1, 5000.0), max_size=3),
    st.integers(1, MOST_BLOCK_ITEMS),
)
def test_a_block_is_a_moment_of_work(seconds: list[float | None], items: list[float | None], previous: int) -> None:
    size = block_items(seconds, items, previous)
    assert 1 <= size <= min(2 * previous, MOST_BLOCK_ITEMS)
    if None in seconds or None in items:
        assert size == 1
    elif size > 1:
        assert all(size * each <= BLOCK_SECONDS * 1.0001 for each in seconds if each is not None)
        assert all(size <= each for each in items if each is not None)
