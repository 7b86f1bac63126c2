"""The operator's passes, and InferenceJobs as a whole, as spans at a receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from batchwright_operator.errors import Forbidden
from batchwright_operator.kube.objects import INFERENCE_JOB, POD
from batchwright_operator.process.tracing import TracedPasses
from batchwright_operator.reconcile.decisions import Decision, Key, Patch, StatusWrite
from batchwright_operator.reconcile.interfaces import StoreView, Watch
from batchwright_worker.otlp.providers import Traces, traces_of
from batchwright_worker.otlp.trace_ids import ids_of
from tests.reconcile.test_steps import Api, controller
from tests.sidecar.collector import Collector, Received


@pytest.fixture
def traces(environ: dict[str, str]) -> Iterator[Traces]:
    traces = traces_of(environ, "batchwright-operator")
    assert traces is not None
    yield traces
    traces.stop()


class Placing:
    """Places pods in one pass, each a step; `pods` empty: it decides on nothing."""

    name = "placement"

    def __init__(self, *pods: str) -> None:
        self.pods = pods

    def watches(self) -> Iterable[Watch]:
        return ()

    def observe(self, store: StoreView, key: Key) -> Placing:
        return self

    def decide(self, observed: Placing, now: float) -> Decision:
        raise AssertionError("it decides in steps")

    def steps(self, observed: Placing, now: float) -> Placing:
        return self

    def __iter__(self) -> Iterator[tuple[Patch, ...]]:
        for pod in self.pods:
            yield (Patch(resource=POD, namespace="n", name=pod, patch={}, nominated_node=f"node-of-{pod}"),)

    def outcome(self) -> Decision:
        return Decision()

    def answered(self, action: Any, refusal: str, now: float) -> None: ...


async def passed(traces: Traces, reconciler: Placing, api: Api | None = None) -> None:
    made, _ = controller(reconciler, api or Api())
    made._passes = TracedPasses(traces.tracer)
    await made.reconcile(Key(reconciler="placement"))


def children(spans: list[Received], of: Received) -> list[Received]:
    return sorted((each for each in spans if each.parent == of.span), key=lambda each: each.start)


async def test_a_placement_is_observed_decided_and_acted(collector: Collector, traces: Traces) -> None:
    await passed(traces, Placing("a", "b"))
    found = await asyncio.to_thread(collector.until, lambda spans: sum(each.name == "act" for each in spans) == 2)
    (root,) = [each for each in found if each.name == "reconcile placement"]
    assert (root.parent, root.service) == ("", "batchwright-operator")
    names = [each.name for each in children(found, root)]
    assert names[:2] == ["observe", "decide"]
    assert sorted(names) == ["act", "act", "decide", "decide", "decide", "observe"]
    acts = {each.attributes["k8s.object.name"]: each for each in found if each.name == "act"}
    assert acts["a"].attributes["k8s.node.name"] == "node-of-a"
    assert acts["b"].attributes["k8s.object.kind"] == "Pod"
    assert all(root.start <= each.start <= each.end <= root.end for each in children(found, root))


async def test_a_refused_action_is_a_failed_span(collector: Collector, traces: Traces) -> None:
    await passed(traces, Placing("a", "b"), Api({"a": Forbidden("a webhook denied it", code=403)}))
    found = await asyncio.to_thread(collector.until, lambda spans: sum(each.name == "act" for each in spans) == 2)
    assert {each.attributes["k8s.object.name"]: each.failed for each in found if each.name == "act"} == {
        "a": True,
        "b": False,
    }


async def test_a_pass_that_acts_on_nothing_is_not_told(collector: Collector, traces: Traces) -> None:
    await passed(traces, Placing())
    await passed(traces, Placing("a"))
    found = await asyncio.to_thread(collector.until, lambda spans: any(each.name == "act" for each in spans))
    assert sum(each.name == "reconcile placement" for each in found) == 1


def ending(condition: str, before: str = "False") -> StatusWrite:
    def of(status: str) -> dict[str, Any]:
        return {"conditions": [{"type": condition, "status": status, "message": "three items failed"}]}

    metadata = {"name": "pages", "namespace": "n", "uid": "u-1", "creationTimestamp": "2026-01-02T03:04:05Z"}
    regarding = {"metadata": metadata, "status": of(before)}
    return StatusWrite(resource=INFERENCE_JOB, regarding=regarding, status=of("True"))


@pytest.mark.parametrize("condition", ["Complete", "Failed"])
def test_a_job_that_ends_is_the_root_of_its_pods_spans(collector: Collector, traces: Traces, condition: str) -> None:
    with TracedPasses(traces.tracer).passing(Key(reconciler="inferencejobs")) as told:
        told.wrote(ending(condition))
        told.wrote(ending(condition, before="True"))
    ids = ids_of("u-1")
    (root,) = collector.until(bool)
    assert (root.name, root.trace, root.span) == ("InferenceJob pages", f"{ids.trace:032x}", f"{ids.span:016x}")
    assert (root.parent, root.failed) == ("", condition == "Failed")
    assert root.start == 1_767_323_045_000_000_000
    assert root.attributes["batchwright.result"] == condition
