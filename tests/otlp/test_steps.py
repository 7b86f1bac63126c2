"""Steps of a process as spans at a receiver; nothing without an endpoint."""

from __future__ import annotations

import subprocess
import sys

import pytest

from batchwright_worker.otlp.providers import is_wanted, traces_of
from batchwright_worker.otlp.steps import carrier, done, step, traced
from batchwright_worker.otlp.trace_ids import ids_of
from tests.sidecar.collector import Collector


def test_steps_are_a_tree_below_their_parent(collector: Collector, environ: dict[str, str]) -> None:
    ids = ids_of("a-uid")
    with traced(environ, "job", ids), step("plan", items=3) as planning:
        planning.set(shards=2)
        done("read", 5)
        inner = carrier()["traceparent"]
    spans = collector.of_trace(f"{ids.trace:032x}", "plan", "read")
    assert spans["plan"].parent == f"{ids.span:016x}"
    assert spans["read"].parent == spans["plan"].span
    assert spans["plan"].attributes == {"batchwright.items": 3, "batchwright.shards": 2}
    assert inner == f"00-{ids.trace:032x}-{spans['plan'].span}-01"
    assert (spans["plan"].service, spans["read"].start) == ("job", 5)


def test_who_called_the_process_goes_before_the_parent(collector: Collector, environ: dict[str, str]) -> None:
    caller = {"TRACEPARENT": f"00-{'a' * 32}-{'b' * 16}-01"}
    with traced({**environ, **caller}, "job", ids_of("a-uid")), step("plan"):
        pass
    assert collector.of_trace("a" * 32, "plan")["plan"].parent == "b" * 16


def test_a_step_that_fails_is_a_failed_span(collector: Collector, environ: dict[str, str]) -> None:
    ids = ids_of("another")
    with pytest.raises(ZeroDivisionError), traced(environ, "job", ids), step("plan"):
        _ = 1 / 0
    assert collector.of_trace(f"{ids.trace:032x}", "plan")["plan"].failed


def test_ids_are_the_same_everywhere_and_of_their_object() -> None:
    assert ids_of("u").traceparent == ids_of("u").traceparent
    assert ids_of("u").trace != ids_of("v").trace


@pytest.mark.parametrize(
    ("variables", "traces", "metrics"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_METRICS_EXPORTER": "none"}, True, False),
    ],
)
def test_the_standard_variables_say_what_is_sent(variables: dict[str, str], traces: bool, metrics: bool) -> None:
    assert (is_wanted(variables, "TRACES"), is_wanted(variables, "METRICS")) == (traces, metrics)


def test_another_protocol_is_told_and_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert traces_of(variables, "job") is None
    assert "not by grpc" in caplog.text


def test_without_an_endpoint_opentelemetry_is_not_even_imported() -> None:
    code = (
        "import sys; from batchwright_worker.otlp.steps import carrier, step, traced\n"
        "with traced({}, 'job'), step('plan') as planning: planning.set(items=3); assert carrier() == {}\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
