"""One decision about one node while it is made: what is known, and what has been decided so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from batchwright_operator.kube.metadata import is_leaving
from batchwright_operator.kube.objects import JOB, Raw
from batchwright_operator.processors.benchmark_outcome import is_finished
from batchwright_operator.processors.nodes import node_info
from batchwright_operator.processors.processor import Processor
from batchwright_operator.processors.start import NodeUse
from batchwright_operator.reconcile.decisions import Action, Delete, Event
from batchwright_operator.settings import Settings

REQUEUE_S: Final = 5.0
"""While a processor waits to become idle: its samples are no watched objects."""
VERIFY_S: Final = 60.0
"""The same for one that has numbers already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedNode:
    """All facts about one node."""

    node: Raw
    profile: Raw | None
    jobs: Mapping[str, Raw] = field(default_factory=dict)
    """Kind -> benchmark Job of this node."""
    pods: Mapping[str, Sequence[Raw]] = field(default_factory=dict)
    """Kind -> pods of that Job."""
    use: NodeUse = field(default_factory=NodeUse)
    """What may keep a benchmark waiting; its `runs_here` and `class_is_measured_elsewhere` are filled in here."""
    classes_elsewhere: frozenset[str] = frozenset()
    """Classes whose first measurement runs on another node."""
    siblings: Mapping[str, Mapping[str, Processor]] = field(default_factory=dict)
    """Node -> kind -> processor of all nodes; only where this one has something that is not measured."""


class NodePass:
    """What is decided of a node's processors, one after the other, is collected here."""

    def __init__(self, observed: ObservedNode, settings: Settings, now: float) -> None:
        self.observed, self.settings, self.now = observed, settings, now
        self.info = node_info(observed.node)
        self.actions: list[Action] = []
        self.events: list[Event] = []
        self.requeue_after_s: float | None = None
        self.counts: dict[str, int] = {}
        self.benchmark_runs = any(not is_finished(each) for each in observed.jobs.values())
        """Of any of its processors: two at once would slow each other down."""

    def delete(self, job: Raw) -> None:
        """A Job goes, and the node is looked at again when it is gone."""
        self.requeue(REQUEUE_S)
        if not is_leaving(job):
            self.actions.append(Delete.of(JOB, job))

    def count(self, kind: str, outcome: str) -> None:
        """A benchmark ended."""
        at = f'batchwright_benchmarks_total{{kind="{kind}",outcome="{outcome}"}}'
        self.counts[at] = self.counts.get(at, 0) + 1

    def record_event(self, reason: str, message: str, *, warning: bool = False) -> None:
        """An Event regarding the profile, which there is."""
        assert self.observed.profile is not None
        self.events.append(
            Event(
                regarding=self.observed.profile,
                reason=reason,
                message=message,
                type="Warning" if warning else "Normal",
                action="Benchmark",
            )
        )

    def requeue(self, after_s: float) -> None:
        """The node is to be looked at again by then."""
        self.requeue_after_s = after_s if self.requeue_after_s is None else min(self.requeue_after_s, after_s)
