"""Method B1: an item's work as a DAG of CPU and model tasks; method B2: a task is ready when all before it are done.

Pure: no I/O, no clock. Tasks are numbered in the order of the manifest, which is a topological order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

ITEM = "item"
"""Name under which a task without dependencies gets the item, and of the error of an item that cannot be read."""


Kind = Literal["CPU", "Model"]


class InvalidDag(ValueError):  # noqa: N818
    """The tasks are no DAG; the message names the task and what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One task: its name, kind and the names of the tasks whose results it takes."""

    name: str
    kind: Kind
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dag:
    """Tasks by number; all tuples are indexed by it. `sinks` are those whose result no task takes."""

    nodes: tuple[Node, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]
    roots: tuple[int, ...]
    sinks: tuple[int, ...]


def build(nodes: Sequence[Node]) -> Dag:
    """The DAG of these tasks. Raises InvalidDag for a duplicate name, an unknown, repeated or later dependency."""
    if not nodes:
        raise InvalidDag("tasks is empty: name at least one task")
    number: dict[str, int] = {}
    before: list[tuple[int, ...]] = []
    for node in nodes:
        if node.name in number:
            raise InvalidDag(f"two tasks are named {node.name!r}: give each task a name of its own")
        before.append(tuple(_predecessor(node, name, number) for name in node.depends_on))
        number[node.name] = len(number)
    after = _successors(before)
    return Dag(
        nodes=tuple(nodes),
        before=tuple(before),
        after=after,
        roots=tuple(i for i, names in enumerate(before) if not names),
        sinks=tuple(i for i, names in enumerate(after) if not names),
    )


def _predecessor(node: Node, name: str, number: dict[str, int]) -> int:
    if name not in number:
        known = ", ".join(number) or "none"
        raise InvalidDag(
            f"task {node.name!r} depends on {name!r}, which is no earlier task (earlier ones: {known}): "
            "list tasks in order, each after those it depends on"
        )
    if node.depends_on.count(name) > 1:
        raise InvalidDag(f"task {node.name!r} names {name!r} twice in dependsOn: name it once")
    return number[name]


def _successors(before: Iterable[tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    rows = list(before)
    after: list[list[int]] = [[] for _ in rows]
    for task, predecessors in enumerate(rows):
        for predecessor in predecessors:
            after[predecessor].append(task)
    return tuple(tuple(tasks) for tasks in after)


class Progress:
    """Which tasks are done. Each task becomes ready exactly once, after all before it are done."""

    __slots__ = ("_dag", "_missing", "_unread", "remaining")

    def __init__(self, dag: Dag) -> None:
        self._dag = dag
        self._missing = [len(names) for names in dag.before]
        self._unread = [len(names) for names in dag.after]
        self.remaining = len(dag.nodes)

    def done(self, task: int) -> list[int]:
        """Note that a task is done; the tasks that are ready by this, in their order in the manifest. `remaining`
        counts the tasks that are not."""
        self.remaining -= 1
        missing, ready = self._missing, []
        for successor in self._dag.after[task]:
            missing[successor] -= 1
            if not missing[successor]:
                ready.append(successor)
        return ready

    def releasable(self, task: int) -> list[int]:
        """The predecessors whose result nobody needs any more now that `task` has read them and is done."""
        unread, free = self._unread, []
        for predecessor in self._dag.before[task]:
            unread[predecessor] -= 1
            if not unread[predecessor]:
                free.append(predecessor)
        return free
