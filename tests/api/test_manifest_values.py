"""Manifests as values: parsing, files, defaults, problems; the command line's lazy roles."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright_operator.api import inference_job as model_job
from batchwright_operator.api import model_deployment as model
from batchwright_operator.api.invalid_spec import InvalidSpec
from batchwright_worker.__main__ import ROLES
from batchwright_worker.api.deployment import parse_deployment
from batchwright_worker.api.documents import ManifestError, load_manifests, validate, with_defaults
from batchwright_worker.api.job import parse_job
from tests.crds.api_cases import GOOD, MINIMAL_DEPLOYMENT, MINIMAL_JOB, WHOLE_DEPLOYMENT, WHOLE_JOB, Document

HEAVY = {"numpy", "onnxruntime", "aiohttp", "kopf", "asyncio", "grpc", "scipy", "jsonschema", "torch"}
PARSERS = {"ModelDeployment": parse_deployment, "InferenceJob": parse_job}


@pytest.mark.parametrize("document", GOOD, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_absent_fields_mean_the_schemas_defaults(document: Document) -> None:
    """Parsing what the user wrote equals parsing what the API server stores."""
    parse = PARSERS[document["kind"]]
    assert parse(document) == parse(with_defaults(document))


@given(
    fields=st.sets(st.sampled_from(["replicas", "placement", "strategy", "pod", "layerwise", "queueOrder", "runtimes"]))
)
def test_any_part_may_be_left_out(fields: set[str]) -> None:
    """As in deployment.json, which leaves out what should not restart pods."""
    document = with_defaults(WHOLE_DEPLOYMENT)
    for field in fields:
        document["spec"].pop(field)
    parsed = parse_deployment(document)
    assert parsed.spec.models == parse_deployment(WHOLE_DEPLOYMENT).spec.models


def test_filling_in_defaults_leaves_the_original_alone_and_is_done_once() -> None:
    before = copy.deepcopy(MINIMAL_DEPLOYMENT)
    filled = with_defaults(MINIMAL_DEPLOYMENT)
    assert before == MINIMAL_DEPLOYMENT
    assert with_defaults(filled) == filled


def test_null_is_absence() -> None:
    document = copy.deepcopy(MINIMAL_DEPLOYMENT)
    document["spec"] |= {"replicas": None, "strategy": None}
    assert with_defaults(document) == with_defaults(MINIMAL_DEPLOYMENT)


def test_documents_of_other_kinds_pass_through() -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "data": {}}
    assert with_defaults(config) is config
    (problem,) = validate(config)
    assert "ModelDeployment" in problem.remedy


def test_manifests_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: A\n---\n# nothing\n---\nkind: B\n")
    (tmp_path / "b.json").write_text('{"kind": "C"}')
    found = load_manifests([tmp_path / "a.yaml", tmp_path / "b.json"])
    assert [document["kind"] for document in found] == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("content", "words"),
    [("a: [", "not YAML"), ("- 1", "write apiVersion"), ("\0", "not YAML")],
    ids=["syntax", "list", "nul"],
)
def test_files_that_are_no_manifests_are_named(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(content)
    with pytest.raises(ManifestError, match=words) as error:
        load_manifests([tmp_path / "x.yaml"])
    assert "x.yaml" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"absent\.yaml"):
        load_manifests([tmp_path / "absent.yaml"])


def test_all_problems_are_told_at_once() -> None:
    document = copy.deepcopy(MINIMAL_DEPLOYMENT)
    document["spec"]["models"][0]["artifacts"][0]["uri"] = "nowhere"
    document["spec"]["models"][0]["batching"] = {"minSize": 9, "maxSize": 3}
    fields = {problem.field for problem in validate(document)}
    assert fields == {"spec.models[0].artifacts[0].uri", "spec.models[0].batching.maxSize"}


def raw(document: Document, **metadata: object) -> Document:
    return {
        **document,
        "metadata": {**document["metadata"], "namespace": "ns", "uid": "u", "generation": 2, **metadata},
    }


def test_the_operator_sees_identity_and_spec() -> None:
    deployment = model.parse(raw(WHOLE_DEPLOYMENT, deletionTimestamp="2026-01-01T00:00:00Z", labels={"a": "b"}))
    assert (deployment.name, deployment.namespace, deployment.uid, deployment.generation) == (
        "everything",
        "ns",
        "u",
        2,
    )
    assert deployment.deleting
    assert deployment.identity.labels == {"a": "b"}
    assert deployment.kinds() == ("cpu", "nvidia.com/gpu")
    assert [artifact.format for artifact in deployment.artifacts_for("nvidia.com/gpu")] == [
        "safetensors",
        "torch-export",
    ]
    assert deployment.runtime_for("nvidia.com/gpu").port == 9000


def test_without_runtimes_the_common_accelerators_are_those_of_the_pods() -> None:
    document = with_defaults(WHOLE_DEPLOYMENT)
    del document["spec"]["runtimes"]
    del document["spec"]["models"][1]["artifacts"][1]
    assert model.parse(raw(document)).kinds() == ("cpu", "batchwright.dev/emulated")
    assert model.parse(raw(document)).runtime_for("cpu").count == 1


def test_a_job_names_each_deployment_once() -> None:
    document = copy.deepcopy(WHOLE_JOB)
    document["spec"]["tasks"].append({"name": "again", "model": {"deployment": "ocr", "model": "other"}})
    job = model_job.parse(raw(document))
    assert job.deployments() == ("ocr",)
    assert not job.deleting


@pytest.mark.parametrize(
    ("parse", "document", "field"),
    [(model.parse, MINIMAL_DEPLOYMENT, "spec.models"), (model_job.parse, MINIMAL_JOB, "spec.tasks")],
    ids=["deployment", "job"],
)
def test_a_stored_object_of_another_schema_is_told_by_field(parse: object, document: Document, field: str) -> None:
    broken = {**raw(document), "spec": {**document["spec"], field.removeprefix("spec."): "x"}}
    with pytest.raises(InvalidSpec) as error:
        parse(broken)  # type: ignore[operator]
    assert error.value.field == field
    assert "apply the CRDs of this version" in str(error.value)


def imported(code: str) -> set[str]:
    """Top-level modules after running code in a fresh interpreter."""
    script = f"import json, sys\n{code}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_manifests_import_nothing_heavy() -> None:
    assert imported("import batchwright_worker.api.deployment, batchwright_worker.api.documents") & HEAVY == set()


def test_the_crd_generator_imports_nothing_heavy() -> None:
    assert (
        imported("import batchwright_operator.crds.generate; batchwright_operator.crds.generate.files()") & HEAVY
        == set()
    )


def test_help_imports_no_role() -> None:
    code = "from batchwright_worker.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert imported(code) & HEAVY == set()


@pytest.mark.parametrize("name", ROLES)
def test_every_role_is_there(name: str) -> None:
    from click.testing import CliRunner

    from batchwright_worker.__main__ import main

    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage: main " + name in done.output
