"""Rendered children of InferenceJobs: golden files and fresh objects."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from batchwright_operator.api.inference_job import parse
from batchwright_operator.jobs.children import (
    Certificate,
    DesiredSettings,
    Step,
    config_map,
    control_secret,
    network_policy,
    step_job,
)
from batchwright_operator.kube.objects import Raw
from batchwright_operator.settings import Settings
from tests.jobs.job_objects import job

GOLDEN = Path(__file__).parent / "golden"
CERTIFICATES = {"ocr": Certificate(secret="ocr-tls", server_name="ocr.shop.svc")}
SETTINGS = Settings(worker_image="example.org/worker:1", allowed_hosts=["data.example.org"])


def jobs() -> dict[str, Raw]:
    """One InferenceJob per shape of pod."""
    pod = {
        "serviceAccountName": "default",
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "batch", "operator": "Exists"}],
        "volumes": [{"name": "cache", "emptyDir": {}}],
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "securityContext": {"runAsUser": 1000},
        "labels": {"team": "vision"},
        "annotations": {"example.org/note": "kept"},
    }
    runner = {
        "image": "example.org/runner:2",
        "configMaps": ["my.functions"],
        "cpuWorkers": 3,
        "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}},
        "env": [{"name": "LANG", "value": "C.UTF-8"}],
        "pod": pod,
    }
    store = {"uri": "s3://bucket/in", "format": "jsonl", "secretRef": {"name": "s3"}}
    return {
        "claims": job(input={"uri": "pvc://in/pages", "format": "images"}, output={"uri": "pvc://out.v1/x"}),
        "everything": job(input=store, runner=runner, activeDeadlineSeconds=600, parallelism=8),
    }


def children(raw: Raw, settings: Settings = SETTINGS) -> list[Raw]:
    parsed = parse(raw)
    desired = DesiredSettings(
        suspend=False, parallelism=2, deadline_s=590, stated_deadline_s=parsed.spec.active_deadline_seconds
    )
    steps: tuple[Step, ...] = ("plan", "run", "commit")
    tls = CERTIFICATES if "runner" in raw["spec"] else {}
    made = [step_job(parsed, step, desired=desired, shards=3, certificates=tls, settings=settings) for step in steps]
    return [
        config_map(parsed, tls),
        control_secret(parsed, "t0ken"),
        network_policy(parsed, "batchwright-system"),
        *made,
    ]


@pytest.mark.parametrize("name", sorted(jobs()))
def test_children_are_as_in_the_golden_file(name: str) -> None:
    text = yaml.safe_dump_all(children(jobs()[name]), sort_keys=True, width=120)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"differs from {path}; UPDATE_GOLDEN=1 rewrites it, then look at the diff"


@pytest.mark.parametrize("name", sorted(jobs()))
def test_every_rendering_is_made_of_fresh_objects(name: str) -> None:
    raw = jobs()[name]
    before = copy.deepcopy(raw)
    first, second = children(raw), children(raw)
    _spoil(first)
    assert children(raw) == second
    assert raw == before


def _spoil(value: Any) -> None:
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            _spoil(each)
    value.clear()


def test_what_may_change_while_it_runs_is_not_in_the_configuration() -> None:
    before = config_map(parse(job()), {})
    after = config_map(parse(job(suspend=True, parallelism=9, activeDeadlineSeconds=5, ttlSecondsAfterFinished=1)), {})
    assert before == after
    config = json.loads(before["data"]["job.json"])
    assert config["endpoints"] == {"ocr": "ocr-replicas-c3406225.shop.svc:8000"}


def test_input_is_read_only_where_it_is_another_claim_than_the_output() -> None:
    spec = children(jobs()["claims"])[3]["spec"]["template"]["spec"]
    mounts = {each["mountPath"]: each.get("readOnly", False) for each in spec["containers"][0]["volumeMounts"]}
    assert mounts["/var/lib/batchwright/data/pvc/in"] is True
    assert mounts["/var/lib/batchwright/data/pvc/out.v1"] is False
    same = children(job())[3]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert [each.get("readOnly", False) for each in same if each["mountPath"].endswith("/data")] == [False]


def test_runners_may_have_an_image_of_their_own_in_settings_and_in_the_spec() -> None:
    settings = replace(SETTINGS, runner_image="example.org/worker:full")
    images = {
        name: {
            container["image"]
            for each in children(raw, settings)
            if each["kind"] == "Job"
            for container in each["spec"]["template"]["spec"]["containers"]
        }
        for name, raw in jobs().items()
    }
    assert images == {"claims": {"example.org/worker:full"}, "everything": {"example.org/runner:2"}}
