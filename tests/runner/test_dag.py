"""Methods B1, B2: a task becomes ready once, when all before it are done; a failure stops only what depends on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_worker.runner.graph.dag import Dag, InvalidDag, Node, Progress, build


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    """Any DAG of up to 8 tasks."""
    nodes = []
    for number in range(draw(st.integers(1, 8))):
        names = [f"t{i}" for i in range(number)]
        before = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        nodes.append(Node(name=f"t{number}", kind=draw(st.sampled_from(("CPU", "Model"))), depends_on=tuple(before)))
    return build(nodes)


def run(dag: Dag, draw: st.DataObject) -> list[int]:
    """Tasks in an order in which they were run (any ready one next)."""
    progress, ready, order = Progress(dag), list(dag.roots), []
    while ready:
        task = ready.pop(draw.draw(st.integers(0, len(ready) - 1)))
        order.append(task)
        ready += progress.done(task)
        progress.releasable(task)
    assert progress.remaining == 0
    return order


@given(dags(), st.data())
def test_every_task_runs_once_after_all_before_it(dag: Dag, draw: st.DataObject) -> None:
    order = run(dag, draw)
    assert sorted(order) == list(range(len(dag.nodes)))
    for task in order:
        assert all(order.index(before) < order.index(task) for before in dag.before[task])


@given(dags(), st.data())
def test_a_result_is_released_exactly_when_its_last_reader_is_done(dag: Dag, draw: st.DataObject) -> None:
    progress, ready = Progress(dag), list(dag.roots)
    readers = {task: set(after) for task, after in enumerate(dag.after)}
    while ready:
        task = ready.pop(draw.draw(st.integers(0, len(ready) - 1)))
        ready += progress.done(task)
        for before in dag.before[task]:
            readers[before].discard(task)
        assert progress.releasable(task) == [before for before in dag.before[task] if not readers[before]]


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], "tasks is empty"),
        ([Node(name="a", kind="CPU"), Node(name="a", kind="CPU")], "two tasks are named 'a'"),
        ([Node(name="a", kind="CPU", depends_on=("b",)), Node(name="b", kind="CPU")], "'b', which is no earlier task"),
        ([Node(name="a", kind="CPU", depends_on=("a",))], "'a', which is no earlier task"),
        ([Node(name="a", kind="CPU"), Node(name="b", kind="CPU", depends_on=("a", "a"))], "names 'a' twice"),
    ],
)
def test_what_is_no_dag_is_refused_with_the_tasks_name(nodes: list[Node], words: str) -> None:
    with pytest.raises(InvalidDag, match=words):
        build(nodes)
