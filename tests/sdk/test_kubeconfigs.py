"""Which cluster and which namespace a program works on: those that kubectl takes for the same kubeconfigs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import ConfigException

import batchwright as bw

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, *, current: str | None, namespace: str | None = None) -> Path:
        """A kubeconfig of one context."""
        document: dict[str, Any] = {
            "clusters": [{"name": name, "cluster": {"server": f"https://{name}.example"}}],
            "users": [{"name": name, "user": {"token": "t"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
        if namespace is not None:
            document["contexts"][0]["context"]["namespace"] = namespace
        if current is not None:
            document["current-context"] = current
        path = tmp_path / name
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def place_of(cluster: bw.Cluster) -> tuple[str, str]:
    return str(cluster._objects.api_client.configuration.host), cluster._namespace


def test_of_several_files_the_first_says_the_context(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [write("a", current="b"), write("b", current="a", namespace="team")]
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, [*files, "/nowhere/config"])))
    assert place_of(bw.Cluster()) == ("https://b.example", "team")
    assert place_of(bw.Cluster(context="a")) == ("https://a.example", "default")
    assert place_of(bw.Cluster(namespace="mine")) == ("https://b.example", "mine")


def test_a_named_context_needs_no_current_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(write("a", current=None, namespace="team")))
    assert place_of(bw.Cluster(context="a")) == ("https://a.example", "team")


@pytest.mark.parametrize("text", [None, "", "{", "[]", "current-context: x", "{current-context: x, contexts: [x]}"])
def test_a_kubeconfig_that_is_none_is_named_and_no_pod_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setattr("batchwright.cluster._TOKEN", tmp_path / "token")
    if text is not None:
        (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ConfigException, match="config") as told:
        bw.Cluster()
    assert "Service host" not in str(told.value)


def test_progress_shows_words_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    """They are no markup: `[/data]` ended a wait with an error, `[n, 3]` was left out."""
    from batchwright.cluster import _Line

    condition = {"type": "Reconciling", "status": "True", "reason": "Why", "message": "wants [n, 3] of [/data]"}
    with _Line("m", None) as told:
        told({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [condition]}})
    assert "wants [n, 3] of [/data]" in " ".join(capsys.readouterr().out.split())
