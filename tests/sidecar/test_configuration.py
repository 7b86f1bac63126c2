"""The sidecar's configuration as it changes: what is taken over, what is refused and said, and which text counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchwright_worker.api.live_fields import fixed_differences
from batchwright_worker.api.model import Model
from batchwright_worker.api.names import LIVE_FIELDS, configuration_digest
from batchwright_worker.sidecar.configuration import Configuration, ConfigurationError, document
from batchwright_worker.sidecar.settings import SidecarFailed

ARTIFACT = {"format": "emulated", "emulated": {"fixedMicroseconds": 1000}}


def text(generation: int | None = 1, *, spec: dict[str, Any] | None = None, name: str = "ocr", **parts: Any) -> bytes:
    metadata = {"name": name, "namespace": "shop"} | ({} if generation is None else {"generation": generation})
    model = {"name": "m", "artifacts": [ARTIFACT], **parts}
    body = {"apiVersion": "v", "kind": "ModelDeployment", "metadata": metadata}
    return json.dumps({**body, "spec": {"models": [model], **(spec or {})}}).encode()


class Place:
    """A mounted file, the configuration of it, and how often that has told of news."""

    def __init__(self, folder: Path, first: bytes) -> None:
        self.path, self.news, self._written = folder / "deployment.json", 0, 0
        self.write(first)
        self.configuration = Configuration.of_file(self.path)
        self.configuration.on_change = self._heard

    def _heard(self) -> None:
        self.news += 1

    def write(self, content: bytes) -> None:
        """As the kubelet does it: another file takes its place."""
        self._written += 1
        new = self.path.with_suffix(".new")
        new.write_bytes(content)
        os.utime(new, (self._written, self._written))
        new.replace(self.path)

    def latency(self) -> int | None:
        return self.configuration.deployment.spec.models[0].targets.latency_milliseconds


def target(milliseconds: int) -> dict[str, Any]:
    return {"targets": {"latencyMilliseconds": milliseconds}}


def test_every_live_field_is_a_field_of_a_model() -> None:
    parts = {field.encode_name: field.default for field in msgspec.structs.fields(Model)}
    for part, _, name in (path.partition(".") for path in LIVE_FIELDS):
        assert name in {field.encode_name for field in msgspec.structs.fields(type(parts[part]))}


@pytest.mark.parametrize(
    ("parts", "paths"),
    [
        (target(5), []),
        ({"targets": {"throughput": 7}, "limits": {"runMilliseconds": 500}}, []),
        ({"batching": {"maxSize": 4, "controller": "MannKendall", "maxQueueLength": 5}}, []),
        ({"batching": {"mode": "Whole"}}, ["spec.models[m].batching"]),
        ({"batching": {"padding": {"dimension": 0, "multiple": 8}}}, ["spec.models[m].batching"]),
        ({"warmup": {"mode": "Skip"}}, ["spec.models[m].warmup"]),
        ({"spec": {"models": [{"name": "n", "artifacts": [ARTIFACT]}]}}, ["spec.models[m]", "spec.models[n]"]),
        ({"name": "other"}, ["metadata"]),
        ({"spec": {"queueOrder": "Oldest"}}, ["spec.queueOrder"]),
    ],
    ids=str,
)
def test_what_needs_another_pod_is_told_by_its_path(parts: dict[str, Any], paths: list[str]) -> None:
    one, other = document(text()).deployment, document(text(**parts)).deployment
    assert fixed_differences(one, other) == paths


def test_a_file_that_becomes_newer_is_taken_over(tmp_path: Path) -> None:
    place = Place(tmp_path, text(3, **target(100)))
    place.configuration.check()
    assert place.news == 0
    place.write(new := text(4, **target(50)))
    place.configuration.check()
    assert (place.latency(), place.news) == (50, 1)
    state = place.configuration.state()
    assert (state.generation, state.digest, state.message) == (4, configuration_digest(new), "")


def test_a_file_that_is_behind_what_was_sent_changes_nothing(tmp_path: Path) -> None:
    """Sent 4 and 5; the kubelet brings 4 a minute later, then 5."""
    place = Place(tmp_path, text(3, **target(100)))
    for generation in (4, 5):
        place.configuration.take(document(text(generation, **target(generation))))
    for generation in (4, 5):
        place.write(text(generation, **target(generation)))
        place.configuration.check()
        assert place.latency() == 5
    assert place.news == 2


def test_what_is_sent_counts_even_if_its_generation_is_lower(tmp_path: Path) -> None:
    """As of an object that was restored from a backup."""
    place = Place(tmp_path, text(9, **target(100)))
    place.configuration.take(document(text(2, **target(50))))
    assert place.latency() == 50


def test_what_asks_for_another_pod_is_refused_said_and_forgotten_with_the_next(tmp_path: Path) -> None:
    place = Place(tmp_path, first := text(1, **target(100)))
    with pytest.raises(ConfigurationError, match=r"only a new pod takes over: spec\.queueOrder") as error:
        place.configuration.take(document(text(2, spec={"queueOrder": "Oldest"}, **target(50))))
    assert error.value.conflict
    state = place.configuration.state()
    assert (place.latency(), state.digest) == (100, configuration_digest(first))
    assert "queueOrder" in state.message
    assert place.news == 1
    place.configuration.take(document(text(3, **target(50))))
    assert place.configuration.state().message == ""


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b'{"metadata": 1}', text()[:-9], b"\xff", text(batching=[1])])
def test_what_is_no_model_deployment_is_refused_and_from_a_file_told_in_the_log(
    bad: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigurationError, match="no ModelDeployment"):
        document(bad)
    place = Place(tmp_path, text(1, **target(100)))
    place.write(bad)
    place.configuration.check()
    assert "stays as it was" in caplog.text
    assert place.latency() == 100
    place.write(text(2, **target(50)))
    place.configuration.check()
    assert place.latency() == 50


def test_a_model_of_a_repository_is_served_as_both_say(tmp_path: Path) -> None:
    """What is at its default in the manifest is config.pbtxt's; a bound that fits no more with it is refused."""
    folder = tmp_path / "repository" / "m"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").touch()
    (folder / "config.pbtxt").write_text("max_batch_size: 8")
    artifacts = [{"format": "triton-repository", "uri": (tmp_path / "repository").as_uri()}]

    def sized(generation: int, **batching: int) -> bytes:
        return text(generation, artifacts=artifacts, batching=batching)

    place = Place(tmp_path, sized(1))
    [served] = place.configuration.deployment.spec.models
    assert (served.batching.max_size, served.artifacts[0].format) == (8, "onnx")
    place.configuration.take(document(sized(2, maxSize=4)))
    assert place.configuration.deployment.spec.models[0].batching.max_size == 4
    with pytest.raises(ConfigurationError, match=r"batching\.maxSize: smaller than minSize"):
        place.configuration.take(document(sized(3, minSize=16)))
    assert "smaller than minSize" in place.configuration.state().message
    place.configuration.take(document(sized(4)))
    assert place.configuration.deployment.spec.models[0].batching.max_size == 8


def test_a_file_that_is_gone_for_a_moment_is_no_end(tmp_path: Path) -> None:
    place = Place(tmp_path, text(1, **target(100)))
    place.path.unlink()
    place.configuration.check()
    place.write(text(2, **target(50)))
    place.configuration.check()
    assert place.latency() == 50


def test_without_a_readable_file_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(SidecarFailed, match="give --deployment FILE"):
        Configuration.of_file(tmp_path / "nothing")
    (tmp_path / "odd").write_text("{}")
    with pytest.raises(SidecarFailed, match="no ModelDeployment"):
        Configuration.of_file(tmp_path / "odd")


def test_a_text_without_a_generation_is_that_of_a_local_server(tmp_path: Path) -> None:
    assert Place(tmp_path, text(None)).configuration.state().generation == 0
