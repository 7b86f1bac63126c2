"""Values that are allowed and odd: names that YAML takes for something else, every setting at once, those of a release
before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
import yaml

from batchwright_operator.settings import Resources, Settings
from e2e.release.chart import CHART
from tests.manifests.test_chart import CRD, helm, rendered, settings_of

pytestmark = pytest.mark.apiserver
ODD = ("123", "0x10", "true", "a" * 63)
"""Each is a good name of a namespace."""
OF_VALUES = ("agent_namespace", "image_pull_policy")
"""Settings that the chart takes from other values."""


@pytest.mark.parametrize("name", ODD)
def test_a_name_stays_a_name(name: str) -> None:
    values = ("--set-string", f"agent.namespace={name[::-1]},operator.priorityClassName={name}")
    values += ("--set-string", f"agent.runtimeClassName={name}")
    some = (
        "--set-string",
        f"settings.watchNamespaces={{{name}}}",
        "--set",
        "crds.install=false,monitoring.dashboards.enabled=true",
    )
    text = helm("template", name[:53], str(CHART), "--namespace", name, *values, *some).stdout
    objects = [each for each in yaml.safe_load_all(text) if each]
    assert [each for each in objects if not all(isinstance(word, str) for word in words(each))] == []
    assert {each["metadata"]["namespace"] for each in objects if "namespace" in each["metadata"]} >= {name}
    settings = settings_of(next(each for each in objects if each["metadata"]["name"] == "batchwright-settings"))
    assert settings.watch_namespaces == [name]


def words(found: Any, key: str = "") -> Iterator[Any]:
    """Whatever is a name, a namespace or a label's value."""
    if isinstance(found, dict):
        for name, value in found.items():
            yield from words(value, "name" if key in ("labels", "annotations", "matchLabels") else str(name))
    elif isinstance(found, list):
        for value in found:
            yield from words(value, key)
    elif key in ("name", "namespace", "namespaces", "priorityClassName", "runtimeClassName"):
        yield found


def other(kind: Any, value: Any) -> Any:
    """A value of this type that is another one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if get_origin(kind) is Literal:
        return next(each for each in get_args(kind) if each != value)
    return {str: "other", list: ["other"], dict: {"other": "1"}}.get(type(value))


STRUCTURED = {
    "backgrounds": ["other:Other"],
    "benchmark_kinds": ["cpu"],
    "benchmark_pods": [{"accelerator": "cpu", "imagePullSecrets": ["pull"]}],
    "runtime_table": [{"accelerator": "cpu", "format": "onnx", "image": "other", "env": {"A": "1"}}],
    "weights_cache": {"claimName": "weights"},
}


def every_setting() -> dict[str, Any]:
    """All settings, none of them at its default."""
    found = {}
    kinds = {each.name: each.type for each in msgspec.structs.fields(Settings)}
    for each in msgspec.structs.fields(Settings):
        default = getattr(Settings(), each.name)
        value = STRUCTURED.get(each.name)
        if value is None:
            value = other(plain(kinds[each.name]), default)
        if isinstance(default, Resources):
            value = {"requests": {"cpu": "7m"}}
        found[each.encode_name] = value
    return found


def plain(kind: Any) -> Any:
    """Without what is said of it."""
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


def test_every_setting_reaches_the_operator(tmp_path: Path) -> None:
    wanted = every_setting()
    try:
        expected = msgspec.convert(wanted, Settings)
    except msgspec.ValidationError as error:
        raise AssertionError(f"give the setting a value in STRUCTURED: {error}") from error
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"settings": wanted}))
    objects = rendered("--values", str(tmp_path / "values.yaml"))
    found = settings_of(next(each for each in objects if each["metadata"]["name"] == "batchwright-settings"))
    default = Settings()
    for each in msgspec.structs.fields(Settings):
        if each.name not in OF_VALUES:
            assert getattr(found, each.name) == getattr(expected, each.name) != getattr(default, each.name), each.name


def test_values_of_the_release_before_do(tmp_path: Path) -> None:
    """`helm upgrade --reuse-values` has the older chart's values alone: what is new since is missing there."""
    shutil.copytree(CHART, tmp_path / "batchwright")
    older = Path(__file__).parent / "golden" / "values-0.1.0.yaml"
    shutil.copy(older, tmp_path / "batchwright" / "values.yaml")
    text = helm("template", "batchwright", str(tmp_path / "batchwright"), "--namespace", "system").stdout
    kinds = [each["kind"] for each in yaml.safe_load_all(text) if each]
    assert {"Deployment", "DaemonSet", CRD} <= set(kinds)
