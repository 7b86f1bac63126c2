"""Settings from a file and the environment, and the reconcilers that they may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchwright_operator.errors import (
    SettingsError,
)
from batchwright_operator.process.registry import build_reconcilers
from batchwright_operator.reconcile.live_state import LiveState
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
        ("weightsCache: {maxBytes: 5}", {}, "exactly one of claimName, csi and hostPath"),
        ("weightsCache: {hostPath: /a, claimName: b}", {}, "exactly one of claimName, csi and hostPath"),
        ("weightsCache: {hostPath: a}", {}, "absolute path"),
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


def test_reconcilers_that_cannot_be_loaded_are_named() -> None:
    with pytest.raises(SettingsError, match="no_such_module:Thing"):
        build_reconcilers(Settings(reconcilers=["no_such_module:Thing"]), LiveState())
