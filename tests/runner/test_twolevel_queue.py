"""Method B3, against the literal rule: always the first task of the first job that has one."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from batchwright_worker.runner.graph.two_level_queue import TwoLevelQueue


class AgainstTheRule(RuleBasedStateMachine):
    """The same calls to the queue and to a list of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: TwoLevelQueue[str, int] = TwoLevelQueue()
        self.jobs: list[tuple[str, list[int]]] = []
        self.names = iter(f"job{number}" for number in range(10_000))
        self.tasks = iter(range(100_000))

    @rule()
    def arrive(self) -> None:
        name = next(self.names)
        self.queue.arrive(name)
        self.jobs.append((name, []))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        name, tasks = data.draw(st.sampled_from(self.jobs))
        task = next(self.tasks)
        self.queue.ready(name, task)
        tasks.append(task)

    @rule()
    def take(self) -> None:
        wanted = next(((name, tasks.pop(0)) for name, tasks in self.jobs if tasks), None)
        assert self.queue.take() == wanted

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.jobs))
        self.queue.finish(entry[0])
        self.jobs.remove(entry)

    def teardown(self) -> None:
        assert len(self.queue) == sum(len(tasks) for _, tasks in self.jobs)


TestAgainstTheRule = AgainstTheRule.TestCase


def test_a_job_arrives_once() -> None:
    queue: TwoLevelQueue[str, int] = TwoLevelQueue()
    queue.arrive("a")
    with pytest.raises(ValueError, match="has arrived already"):
        queue.arrive("a")
