"""Rendered children: golden files, fresh objects, and what the golden files cannot say."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchwright_operator.api.eligible_kinds import eligible_kinds
from batchwright_operator.api.model_deployment import parse
from batchwright_operator.deployments.children import config_name, deployment_json
from batchwright_operator.deployments.observe import ObservedDeployment
from batchwright_operator.deployments.pod_template import pod_template, strategy_of
from batchwright_operator.deployments.reconciler import decide
from batchwright_operator.deployments.shape import configuration
from batchwright_operator.kube.objects import Raw
from batchwright_operator.reconcile.decisions import Apply, Delete
from batchwright_operator.settings import RuntimeEntry, Settings, WeightsCache
from tests.deployments.deployment_objects import EMULATED, NVIDIA, deployment, emulated, model, samples

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = Settings(worker_image="example.org/worker:1")


def children(raw: Raw, settings: Settings = SETTINGS) -> list[Raw]:
    """All bodies that a first visit applies."""
    claims = frozenset({"models", "models.v2"})
    decision = decide(ObservedDeployment(raw=raw, settings=settings, token="t0ken", claims=claims), 1_800_000_000.0)
    return [action.body for action in decision.actions if isinstance(action, Apply)]


def template(raw: Raw, settings: Settings = SETTINGS, index: int = 0) -> dict[str, Any]:
    wanted = parse(raw)
    return pod_template(wanted, eligible_kinds(wanted, settings).plans[index], settings)


@pytest.mark.parametrize("name", sorted(samples()))
def test_children_are_as_in_the_golden_file(name: str) -> None:
    shown = [each for each in children(samples()[name]) if each["kind"] != "ControllerRevision"]  # a copy of the others
    text = yaml.safe_dump_all(shown, sort_keys=True, width=120, default_flow_style=False)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"differs from {path}; UPDATE_GOLDEN=1 rewrites it, then look at the diff"


@pytest.mark.parametrize("name", sorted(samples()))
def test_every_rendering_is_made_of_fresh_objects(name: str) -> None:
    raw = samples()[name]
    before = copy.deepcopy(raw)
    first, second = children(raw), children(raw)
    assert first == second
    _spoil(first)
    assert children(raw) == second
    assert raw == before


def _spoil(value: Any) -> None:
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            _spoil(each)
    value.clear()


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({"replicas": 7}, False),
        ({"placement": {"policy": "Forecast"}}, False),
        ({"strategy": {"type": "Recreate"}}, False),
        ({"networkPolicy": {"mode": "None"}}, False),
        ({"disruptionBudget": {"maxUnavailable": "20%"}}, False),
        ({"queueOrder": "Oldest"}, True),
        ({"models": [model("recognizer", targets={"latencyMilliseconds": 50})]}, False),
        ({"models": [model("recognizer", batching={"maxSize": 4})]}, False),
        ({"models": [model("recognizer", batching={"mode": "Whole"})]}, True),
        ({"models": [model("recognizer", warmup={"mode": "Skip"})]}, True),
    ],
)
def test_only_what_pods_read_restarts_them(change: Raw, restarts: bool) -> None:
    before, after = deployment(), deployment()
    after["spec"] |= change
    assert (template(before) != template(after)) is restarts
    assert (config_name(before, "cpu") != config_name(after, "cpu")) is restarts


def test_tls_restarts_pods_and_the_name_that_jobs_verify_does_not() -> None:
    plain, by_tls, named = deployment(), deployment(), deployment()
    by_tls["spec"]["tls"] = {"secretRef": {"name": "certificate"}}
    named["spec"]["tls"] = {"secretRef": {"name": "certificate"}, "serverName": "ocr.example.org"}
    assert template(plain) != template(by_tls) == template(named)
    containers = template(by_tls)["spec"]["containers"]
    assert not any(each["name"] == "tls" for container in containers for each in container["volumeMounts"])


def test_a_long_name_stays_within_the_limit_and_unique() -> None:
    names = [each["metadata"]["name"] for each in children(deployment("n" * 60))]
    assert all(len(name) <= 63 for name in names)
    assert len({(each["kind"], each["metadata"]["name"]) for each in children(deployment("n" * 60))}) == len(names)


def test_every_child_is_owned_and_labelled() -> None:
    for body in children(deployment()):
        [owner] = body["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == ("uid-of-ocr", True)
        assert body["metadata"]["labels"]["batchwright.dev/deployment"] == "ocr"


def test_each_device_has_a_runtime_of_its_own_and_a_server_has_all() -> None:
    two = template(samples()["two-devices"])["spec"]["containers"]
    assert [each["name"] for each in two] == ["runtime", "runtime-1"]
    assert [each["resources"]["limits"] for each in two] == [{NVIDIA: "1"}] * 2
    raw = deployment(
        models=[model("m", {"accelerator": NVIDIA, "format": "onnx", "uri": "pvc://c/m"})],
        runtimes=[{"accelerator": NVIDIA, "count": 2, "protocol": "open-inference", "image": "x", "port": 9000}],
    )
    [server] = template(raw)["spec"]["containers"]
    assert server["resources"]["limits"] == {NVIDIA: "2"}
    assert "command" not in server


def test_exclusive_kinds_roll_without_surge() -> None:
    raw = deployment(models=[model("m", emulated())])
    assert strategy_of(parse(raw), EMULATED)["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert strategy_of(parse(deployment()), "cpu")["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_the_configuration_has_no_identity_and_no_scale() -> None:
    raw = deployment(replicas=3)
    body = json.loads(deployment_json(raw, configuration(raw["spec"], raw["spec"], "cpu", ())))
    assert body["metadata"] == {"name": "ocr", "namespace": "shop"}
    assert "replicas" not in body["spec"]


def test_kinds_need_an_artifact_of_every_model_and_one_runtime() -> None:
    raw = deployment(models=[model("a", emulated("cpu"), emulated(EMULATED)), model("b", emulated("cpu"))])
    offered = eligible_kinds(parse(raw), SETTINGS)
    assert offered.kinds == ("cpu",)
    assert offered.refusals == (f"{EMULATED}: no artifact in b",)
    two_images = Settings(runtime_table=[RuntimeEntry(format="onnx", image="onnx:1")])
    mixed = deployment(models=[model("a", emulated("cpu")), model("b")])
    assert "different runtime images" in eligible_kinds(parse(mixed), two_images).refusals[0]


def test_the_users_environment_wins_over_the_table_but_not_over_ours() -> None:
    table = Settings(runtime_table=[RuntimeEntry(env={"A": "table", "B": "table"})])
    env = [{"name": "B", "value": "user"}, {"name": "BATCHWRIGHT_ACCELERATOR", "value": "user"}]
    raw = deployment(runtimes=[{"accelerator": "cpu", "env": env}])
    given = {each["name"]: each.get("value") for each in template(raw, table)["spec"]["containers"][0]["env"]}
    assert (given["A"], given["B"], given["BATCHWRIGHT_ACCELERATOR"]) == ("table", "user", "cpu")


def test_the_administrators_environment_of_sidecars_is_there_but_not_over_ours() -> None:
    settings = Settings(sidecar_env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318", "BATCHWRIGHT_POD": "other"})
    spec = template(deployment(), settings)["spec"]
    [sidecar] = [each for each in spec["initContainers"] if each["name"] == "sidecar"]
    given = {each["name"]: each for each in sidecar["env"]}
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"]["value"] == "http://otel:4318"
    assert "valueFrom" in given["BATCHWRIGHT_POD"]
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in {each["name"] for each in spec["containers"][0]["env"]}


def test_the_administrators_environment_of_fetching_is_there_but_not_over_its_rules() -> None:
    env = {"HTTPS_PROXY": "http://proxy:3128", "BATCHWRIGHT_ALLOW_HTTP": "true", "BATCHWRIGHT_ALLOWED_HOSTS": "other",
           "BATCHWRIGHT_ACCELERATOR": "other"}  # fmt: skip
    artifacts = [{"format": "onnx", "uri": "https://models.example/m.onnx"}]
    raw = deployment(models=[{"name": "m", "artifacts": artifacts}])
    spec = template(raw, Settings(fetch_env=env, allowed_hosts=["models.example"]))["spec"]
    fetch, sidecar = spec["initContainers"]
    given = [(each["name"], each.get("value")) for each in fetch["env"]]
    assert dict(given)["HTTPS_PROXY"] == "http://proxy:3128"
    assert dict(given)["BATCHWRIGHT_ALLOWED_HOSTS"] == "models.example"
    assert dict(given)["BATCHWRIGHT_ACCELERATOR"] == "cpu"
    assert len(given) == len(dict(given))
    assert "HTTPS_PROXY" not in {
        each["name"] for container in (sidecar, *spec["containers"]) for each in container["env"]
    }


def ingress(settings: Settings = SETTINGS, **spec: Any) -> list[Raw]:
    """The ingress rules of the NetworkPolicy; none without one."""
    decision = decide(
        ObservedDeployment(
            raw=deployment(**spec), settings=settings, token="t0ken", claims=frozenset({"models"}),
        ),
        1_800_000_000.0,
    )  # fmt: skip
    bodies = [action.body for action in decision.actions if isinstance(action, Apply)]
    return [rule for each in bodies if each["kind"] == "NetworkPolicy" for rule in each["spec"]["ingress"]]


def callers(rules: list[Raw], port: int) -> list[Raw] | None:
    """Who may reach the port; None: everybody."""
    found = [rule for rule in rules if any(each["port"] == port for each in rule["ports"])]
    assert found
    return None if any("from" not in rule for rule in found) else [peer for rule in found for peer in rule["from"]]


METRICS = {"namespaceSelector": {"matchLabels": {"batchwright.dev/metrics": "true"}}}


def test_by_default_the_namespace_itself_may_call_and_prometheus_may_read_metrics() -> None:
    rules = ingress()
    assert callers(rules, 8000) == [{"podSelector": {}}, METRICS]
    assert callers(rules, 8001) == [{"podSelector": {}}]
    [control] = callers(rules, 8090) or ()
    assert control["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "batchwright-system"}


def test_the_spec_says_who_may_call_instead() -> None:
    web = {"namespaceSelector": {"matchLabels": {"team": "web"}}}
    rules = ingress(networkPolicy={"from": [web]}, replicas=2)
    assert callers(rules, 8001) == [web]
    assert callers(rules, 8090) == callers(ingress(), 8090)


def test_an_administrator_may_keep_the_ports_open() -> None:
    open_to_all = Settings(worker_image="w", inference_open_to="Everywhere")
    assert callers(ingress(open_to_all), 8000) is None
    assert callers(ingress(open_to_all), 8090) == callers(ingress(), 8090)
    assert callers(ingress(open_to_all, networkPolicy={"from": [{"podSelector": {}}]}), 8001) == [{"podSelector": {}}]


def test_without_a_policy_none_is_made_and_an_older_one_goes() -> None:
    assert ingress(networkPolicy={"mode": "None"}) == []
    reference = {"kind": "ModelDeployment", "name": "ocr", "uid": "uid-of-ocr", "controller": True}
    old = {"metadata": {"name": "ocr", "namespace": "shop", "uid": "u", "ownerReferences": [reference]}}
    observed = ObservedDeployment(
        raw=deployment(networkPolicy={"mode": "None"}), settings=SETTINGS, token="t0ken", policies=(old,),
        claims=frozenset({"models"}),
    )  # fmt: skip
    deleted = [each for each in decide(observed, 1_800_000_000.0).actions if isinstance(each, Delete)]
    assert [(each.resource.kind, each.name, each.uid) for each in deleted] == [("NetworkPolicy", "ocr", "u")]


@pytest.mark.parametrize(("wanted", "bound"), [
    (None, 1), ({}, 1), ({"maxUnavailable": 3}, 3), ({"maxUnavailable": "20%"}, "20%"), ({"maxUnavailable": 0}, 0),
])  # fmt: skip
def test_the_budget_of_disruptions_is_the_user_s(wanted: Raw | None, bound: int | str) -> None:
    raw = deployment(**({} if wanted is None else {"disruptionBudget": wanted}))
    [budget] = [each for each in children(raw) if each["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["maxUnavailable"] == bound


def test_without_a_budget_none_is_made_and_an_older_one_goes() -> None:
    raw = deployment(disruptionBudget={"mode": "None"})
    assert "PodDisruptionBudget" not in {each["kind"] for each in children(raw)}
    reference = {"kind": "ModelDeployment", "name": "ocr", "uid": "uid-of-ocr", "controller": True}
    old = {"metadata": {"name": "ocr", "namespace": "shop", "uid": "u", "ownerReferences": [reference]}}
    observed = ObservedDeployment(
        raw=raw, settings=SETTINGS, token="t0ken", budgets=(old,), claims=frozenset({"models"})
    )
    deleted = [each for each in decide(observed, 1_800_000_000.0).actions if isinstance(each, Delete)]
    assert [(each.resource.kind, each.name, each.uid) for each in deleted] == [("PodDisruptionBudget", "ocr", "u")]


CACHES: list[tuple[dict[str, Any], Raw]] = [
    ({"claim_name": "weights"}, {"persistentVolumeClaim": {"claimName": "weights"}}),
    ({"csi": {"driver": "local.example.org"}}, {"csi": {"driver": "local.example.org"}}),
    ({"host_path": "/var/lib/weights"}, {"hostPath": {"path": "/var/lib/weights", "type": "Directory"}}),
]


@pytest.mark.parametrize(("where", "volume"), CACHES)
def test_what_is_fetched_is_shared_by_the_pods_of_a_namespace(where: dict[str, Any], volume: Raw) -> None:
    settings = Settings(weights_cache=WeightsCache(**where, namespaces=["sh*"], max_bytes=10**9))
    spec = template(samples()["fetched"], settings)["spec"]
    assert [each for each in spec["volumes"] if each["name"] == "weights-cache"] == [
        {"name": "weights-cache", **volume}
    ]
    mounts = {
        each["name"]: next((m for m in each["volumeMounts"] if m["name"] == "weights-cache"), None)
        for each in (*spec["initContainers"], *spec["containers"])
    }
    shared = {"name": "weights-cache", "mountPath": "/var/lib/batchwright/cache", "subPath": "shop"}
    assert mounts == {"fetch": shared, **dict.fromkeys(("sidecar", "runtime"), shared | {"readOnly": True})}
    env = {each["name"]: each.get("value") for each in spec["initContainers"][0]["env"]}
    assert (env["BATCHWRIGHT_CACHE"], env["BATCHWRIGHT_CACHE_BYTES"]) == (shared["mountPath"], "1000000000")


@pytest.mark.parametrize(("name", "namespaces"), [("cpu-claim", []), ("fetched", ["other", "s"])])
def test_pods_without_a_use_for_the_cache_do_not_have_it(name: str, namespaces: list[str]) -> None:
    settings = Settings(weights_cache=WeightsCache(host_path="/x", namespaces=namespaces))
    assert template(samples()[name], settings) == template(samples()[name], Settings())


def test_a_claim_of_the_cache_that_is_not_there_is_told() -> None:
    settings = Settings(worker_image="w", weights_cache=WeightsCache(claim_name="weights"))
    decision = decide(ObservedDeployment(raw=samples()["fetched"], settings=settings, token="t"), 1_800_000_000.0)
    assert "PersistentVolumeClaim weights does not exist" in str(decision)


def test_the_sidecar_sees_the_model_repositories_that_it_reads() -> None:
    """config.pbtxt says how their models are served; other weights are the runtime's alone."""
    repository = {"format": "triton-repository", "uri": "pvc://models/triton"}
    fetched = {"format": "triton-repository", "uri": "s3://bucket/triton/"}
    plain = {"format": "onnx", "uri": "pvc://models.v2/m.onnx"}
    names = (("a", repository), ("b", fetched), ("c", plain))
    models = [model(name, artifact) for name, artifact in names]
    spec = template(deployment(models=models))["spec"]
    [fetch, sidecar], [runtime] = spec["initContainers"], spec["containers"]
    paths = [
        {each["mountPath"] for each in one["volumeMounts"] if "/weights/" in each["mountPath"]}
        for one in (sidecar, runtime)
    ]
    assert fetch["name"] == "fetch"
    assert {Path(each).name for each in paths[0]} == {"models", "fetched"}
    assert {Path(each).name for each in paths[1]} == {"models", "models.v2", "fetched"}


def test_an_image_is_mounted_once_and_read_only_where_its_models_are_read() -> None:
    spec = template(samples()["image-volumes"])["spec"]
    images = {each["name"]: each["image"]["reference"] for each in spec["volumes"] if "image" in each}
    assert sorted(images.values()) == [
        "registry.example.org/team/net:1.2",
        f"registry.example.org:5000/team/ranker@sha256:{'2' * 64}",
    ]
    [fetch, _], [runtime] = spec["initContainers"], spec["containers"]
    mounted = {each["name"]: each for each in runtime["volumeMounts"] if each["name"] in images}
    assert mounted.keys() == images.keys()
    assert all(each["readOnly"] for each in mounted.values())
    checked = [images[each["name"]] for each in fetch["volumeMounts"] if each["name"] in images]
    assert checked == ["registry.example.org/team/net:1.2"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "others"}]
