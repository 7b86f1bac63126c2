"""Settings and the small wire formats around the core."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchwright_operator.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    NotFound,
    SettingsError,
    Unavailable,
    error_of,
)
from batchwright_operator.process.control_key import KEY_BYTES, key_of
from batchwright_operator.process.registry import build_reconcilers
from batchwright_operator.reconcile.decisions import Key
from batchwright_operator.reconcile.live_state import LiveState, Sample, control_token
from batchwright_operator.reconcile.metrics import Metrics, parse_name
from batchwright_operator.settings import Resources, RuntimeEntry, Settings, load_settings


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("scrapeIntervalSeconds: 7\nworkerImage: a\nallowedHosts: [x.org]\n")
    settings = load_settings(path, {"BATCHWRIGHT_SCRAPE_INTERVAL_SECONDS": "2.5", "BATCHWRIGHT_ALLOW_HTTP": "true"})
    assert (settings.scrape_interval_seconds, settings.worker_image, settings.allowed_hosts, settings.allow_http) == (
        2.5,
        "a",
        ["x.org"],
        True,
    )


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("# nothing yet\n")
    assert load_settings(path, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("scrapeInterval: 7", {}, "scrapeInterval"),
        ("workers: many", {}, "workers"),
        ("- a", {}, "mapping"),
        ("a: [", {}, "settings.yaml"),
        ("", {"BATCHWRIGHT_WORKERS": "many"}, "workers"),
        ("", {"BATCHWRIGHT_WORKERS": "[1"}, "BATCHWRIGHT_WORKERS"),
        ("imagePullPolicy: Sometimes", {}, "imagePullPolicy"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, text: str, environ: dict[str, str], named: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=named.replace("[", r"\[")):
        load_settings(path, environ)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no-such\.yaml"):
        load_settings(Path("no-such.yaml"), {})


def test_the_most_specific_runtime_wins() -> None:
    rows = [
        RuntimeEntry(image="any"),
        RuntimeEntry(accelerator="cpu", image="cpu"),
        RuntimeEntry(format="onnx", image="onnx"),
        RuntimeEntry(accelerator="cpu", format="onnx", resources=Resources(limits={"cpu": "1"})),
    ]
    settings = Settings(runtime_table=rows, worker_image="worker")
    assert settings.runtime_for("cpu", "python").image == "cpu"
    assert settings.runtime_for("nvidia.com/gpu", "onnx").image == "onnx"
    assert settings.runtime_for("x", "y").image == "any"
    exact = settings.runtime_for("cpu", "onnx")
    assert exact.resources is not None
    assert (exact.image, exact.resources.as_dict()) == ("worker", {"limits": {"cpu": "1"}})


def test_domains_that_cannot_be_loaded_are_named() -> None:
    with pytest.raises(SettingsError, match="no_such_module:Thing"):
        build_reconcilers(Settings(reconcilers=["no_such_module:Thing"]), LiveState())


def test_control_tokens_differ_by_key_and_object() -> None:
    tokens = {control_token(key, uid) for key in (b"a" * 32, b"b" * 32) for uid in ("1", "2")}
    assert len(tokens) == 4
    with pytest.raises(ValueError, match="not loaded"):
        LiveState().control_token("1")


@pytest.mark.parametrize("data", [None, {}, {"key": "!"}, {"key": "c2hvcnQ="}])
def test_a_broken_control_key_says_what_to_do(data: dict[str, str] | None) -> None:
    with pytest.raises(SettingsError, match=rf"Secret n/k has no data.key of at least {KEY_BYTES}.*delete it"):
        key_of({"metadata": {"name": "k", "namespace": "n"}, "data": data})


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Gone),
        (403, "Forbidden", Forbidden),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", Unavailable),
        (503, "", Unavailable),
        (500, "InternalError", Unavailable),
    ],
)
def test_errors_are_sorted_by_what_to_do_next(code: int, reason: str, kind: type[ApiError]) -> None:
    assert type(error_of(code, reason, "m")) is kind


def test_metrics_of_domains_and_samples_are_served() -> None:
    live = LiveState()
    metrics = Metrics(live)
    live.samples[("a", "cpu")] = Sample(utilization=0.5, memory_utilization=0.25, taken_at=9.0)
    metrics.decided(Key(reconciler="d"), {'load{node="a",kind="x\\"y"}': 0.25, "plain": 1.0})
    assert metrics.registry.get_sample_value("load", {"node": "a", "kind": 'x"y'}) == 0.25
    assert metrics.registry.get_sample_value("plain") == 1.0
    labels = {"node": "a", "kind": "cpu"}
    assert metrics.registry.get_sample_value("batchwright_processor_utilization_ratio", labels) == 0.5
    metrics.decided(Key(reconciler="d"), {})
    assert metrics.registry.get_sample_value("plain") is None


def test_a_bad_metric_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no name of a metric"):
        parse_name("9lives")
