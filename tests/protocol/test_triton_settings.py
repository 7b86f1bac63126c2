"""Triton's trace and log settings by its own clients: they are read, and a change is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from batchwright_worker.inference.errors import BadInput
from batchwright_worker.protocol.triton_settings import check_log, check_trace, log_settings, trace_settings
from tests.protocol.serving import Served


@pytest.mark.parametrize(
    "wanted", [{}, {"trace_level": "OFF"}, {"trace_level": ["OFF"]}, {"trace_level": None, "trace_rate": []}]
)
def test_what_is_so_already_may_be_set(wanted: dict[str, Any]) -> None:
    check_trace(wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trace_level", "TIMESTAMPS"),
        ("trace_level", ["OFF", "TENSORS"]),
        ("trace_level", {}),
        ("trace_rate", "1"),
        ("trace_file", ""),
        ("trace_count", 0),
        ("nothing", "x"),
    ],
)
def test_another_trace_setting_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"trace setting '{name}' cannot be set: .*OTEL_"):
        check_trace({"trace_level": "OFF", name: value})


def test_log_settings_are_taken_as_they_are() -> None:
    check_log(log_settings())
    check_log({"log_format": None})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_verbose_level", 1),
        ("log_verbose_level", False),
        ("log_error", 1),
        ("log_file", "/tmp/log"),
        ("log_format", "ISO8601"),
    ],
)
def test_another_log_setting_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"log setting '{name}' cannot be set: .*LOG_LEVEL"):
        check_log({name: value})


def test_over_http(served: Served) -> None:
    with triton_http.InferenceServerClient(f"127.0.0.1:{served.http}") as client:
        for model in (None, "linear"):
            assert client.get_trace_settings(model_name=model) == trace_settings()
            assert client.update_trace_settings(model_name=model, settings={"trace_level": None}) == trace_settings()
        assert set(client.get_log_settings()) == set(log_settings())
        assert client.update_log_settings({"log_verbose_level": 0}) == client.get_log_settings()
        refused = {
            "trace setting 'trace_rate'": lambda: client.update_trace_settings("linear", {"trace_rate": "1"}),
            "log setting 'log_verbose_level'": lambda: client.update_log_settings({"log_verbose_level": 1}),
            "Request for unknown model": lambda: client.get_trace_settings(model_name="nobody"),
        }
        for words, call in refused.items():
            with pytest.raises(InferenceServerException, match=words):
                call()


def test_over_grpc(served: Served) -> None:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc}") as client:
        of_traces = {"settings": {"trace_level": {"value": ["OFF"]}}}
        for model in (None, "linear"):
            assert client.get_trace_settings(model_name=model, as_json=True) == of_traces
            cleared = {"trace_level": None}
            assert client.update_trace_settings(model_name=model, settings=cleared, as_json=True) == of_traces
        settings = client.get_log_settings(as_json=True)["settings"]
        assert set(settings) == set(log_settings())
        assert settings["log_verbose_level"] == {"uint32_param": 0}
        assert client.update_log_settings({"log_verbose_level": 0}, as_json=True)["settings"] == settings
        refused = {
            "trace setting 'trace_rate'": lambda: client.update_trace_settings("linear", {"trace_rate": "1"}),
            "log setting 'log_file'": lambda: client.update_log_settings({"log_file": "/tmp/log"}),
            "Request for unknown model": lambda: client.get_trace_settings(model_name="nobody"),
        }
        for words, call in refused.items():
            with pytest.raises(InferenceServerException, match=words) as told:
                call()
            code = "StatusCode.NOT_FOUND" if "unknown" in words else "StatusCode.INVALID_ARGUMENT"
            assert told.value.status() == code
