"""Objects that programs build are those that people write, and are refused where the API server would."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import batchwright as bw

ROOT = Path(__file__).resolve().parents[2]
ONNX = bw.Artifact(format="onnx", uri="pvc://models/scorer.onnx")


def scoring() -> bw.Manifest:
    model = bw.Model(name="scorer", artifacts=(ONNX,), targets=bw.Targets(latency_milliseconds=50))
    return bw.model_deployment("scoring", bw.ModelDeploymentSpec(models=(model,)))


def test_a_built_object_is_the_one_in_the_example() -> None:
    (written,) = yaml.safe_load_all((ROOT / "examples/own-model/deployment.yaml").read_text())
    assert scoring().document == written
    assert yaml.safe_load(scoring().yaml()) == written


def test_a_built_job_is_the_one_in_the_example() -> None:
    spec = bw.InferenceJobSpec(
        input=bw.Input(uri="pvc://data/people.csv", format="csv", id_field="name", shard_size=2),
        output=bw.OutputSpec(uri="pvc://results/scores", format="parquet"),
        tasks=(
            bw.Task(name="features", cpu=bw.CpuTask(function="features:row")),
            bw.Task(name="score", depends_on=("features",), model=bw.ModelTask(deployment="scoring", model="scorer")),
        ),
    )
    assert [bw.inference_job("score-people", spec)] == bw.load(ROOT / "examples/own-model/job.yaml")


def test_namespace_labels_and_annotations_are_metadata() -> None:
    model = bw.Model(name="m", artifacts=(ONNX,))
    built = bw.model_deployment(
        "d", bw.ModelDeploymentSpec(models=(model,), replicas=3), namespace="n", labels={"a": "b"}
    )
    assert built.document["metadata"] == {"name": "d", "namespace": "n", "labels": {"a": "b"}}
    assert built.document["spec"]["replicas"] == 3


def test_all_that_the_api_server_would_refuse_is_said_at_once() -> None:
    models = (bw.Model(name="m", artifacts=()), bw.Model(name="M!", artifacts=(ONNX,)))
    with pytest.raises(bw.InvalidManifest) as wrong:
        bw.model_deployment("d", bw.ModelDeploymentSpec(models=models))
    assert {problem.field for problem in wrong.value.problems} == {"spec.models[0].artifacts", "spec.models[1].name"}


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "My Model"}, "metadata.name"),
        ({"name": "a_b"}, "metadata.name"),
        ({"name": "a" * 254}, "metadata.name"),
        ({"name": 5}, "metadata.name"),
        ({"name": "a", "namespace": "team.a"}, "metadata.namespace"),
        ({"name": "a", "labels": {"version": 1}}, "metadata.labels.version"),
        ({"name": "a", "annotations": ["b"]}, "metadata.annotations"),
    ],
)
def test_metadata_that_the_api_server_would_refuse_is_named(metadata: dict[str, object], field: str) -> None:
    (problem,) = bw.Manifest({**scoring().document, "metadata": metadata}).problems()
    assert problem.field == field


def test_a_file_that_is_none_is_said_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(bw.InvalidManifest, match=r"a\.yaml: not YAML"):
        bw.load(tmp_path / "a.yaml")
