"""Weights that the pods of a node share, on three real nodes; and a model of texts that serves only who shows a
certificate, asked through its Service and by a job, beside one of a Triton model repository.

Real: kubelets, containerd, hostPath volumes with each node's own folder, file locks between containers, kube-proxy.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trustme
from onnx import TensorProto, helper, numpy_helper

from batchwright_worker.fetch.cache.counters import Counters, read_counters
from batchwright_worker.fetch.cache.layout import Layout
from e2e.cluster import Cluster, ClusterSpec, NodeSpec
from tests.fetch.stores import Files, served_in_thread
from tests.language.text_models import SENTENCE_FILES, TABLE, folder_of, vector
from tests.local.triton_models import made
from tests.nodes.older_version import present
from tests.nodes.place import PLACE, SMALL, Place, records
from tests.nodes.test_evicted import until
from tests.protocol.serving import linear_onnx

pytestmark = [pytest.mark.cluster, pytest.mark.soak, pytest.mark.timeout(2400)]

NODES = ("a", "b", "c")
WEIGHTS = "/var/lib/batchwright-weights"
MODELS = ("one.onnx", "two.onnx", "three.onnx")
FUNCTIONS = """
import numpy as np

def tokens(inputs):
    word = 4 + int(inputs["item"]["data"]["v"]) % 5
    ids = np.array([2, word, 5, 3], np.int64)
    return {"input_ids": ids, "attention_mask": np.ones(4, np.int64)}

def numbers(inputs):
    (answer,) = inputs.values()
    return {"vector": [float(each) for each in np.asarray(answer["sentence_embedding"]).reshape(-1)]}
"""
ASK = """
import http.client, json, socket, ssl, sys
address, port, name, ca, certificate, body = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if certificate:
    context.load_cert_chain(certificate)
raw = socket.create_connection((address, int(port)), timeout=30)
connection = http.client.HTTPSConnection(name)
connection.sock = context.wrap_socket(raw, server_hostname=name)
connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
response = connection.getresponse()
print(json.dumps({"status": response.status, "body": json.loads(response.read())}))
"""


def weights(seed: int) -> bytes:
    """Of a model of two megabytes."""
    table = np.random.default_rng(seed).normal(size=(1024, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1024])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 512])],
        [numpy_helper.from_array(table, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The cluster, the store that pods fetch from, and what each node has in its folder of weights; `data`: the
    claim's folder."""

    place: Place
    files: Files
    data: Path

    def layout(self, node: str) -> Layout:
        return Layout(on_node(self.place.cluster, node) / PLACE)

    def entries(self, node: str) -> dict[str, str]:
        """Key -> SHA-256 of its file."""
        layout = self.layout(node)
        read = {key: layout.read(key) for key in layout.entry_keys()} if layout.root.exists() else {}
        return {key: next(iter(entry.files.values())).sha256 for key, entry in read.items() if entry is not None}

    def names(self, node: str) -> set[str]:
        """Of the models whose weights are there."""
        known = {hashlib.sha256(body).hexdigest(): name for name, body in self.files.content.items()}
        return {known[each] for each in self.entries(node).values()}

    def counters(self, node: str) -> Counters:
        return read_counters(self.layout(node).root)

    def age(self, node: str, seconds: float) -> None:
        """As if nobody had used any of it for so long."""
        layout, then = self.layout(node), time.time() - seconds
        for key in layout.entry_keys():
            os.utime(layout.entry_file(key), (then, then))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    content = {name: weights(seed) for seed, name in enumerate(MODELS)}
    files = Files(content=content)
    spec = ClusterSpec(name=f"weights-{os.getpid()}", nodes=tuple(NodeSpec(name=name, cpus=0.75) for name in NODES))
    with Cluster.up(spec) as cluster, served_in_thread(files, cluster.network.host_address) as address:
        place = Place(cluster)
        for name in NODES:
            own = on_node(cluster, name)
            own.mkdir()
            os.chown(own, -1, 65532)
            own.chmod(0o2775)
            place.kubectl.run("label", "node", name, "batchwright.dev/benchmark-opt-out=true")
        bound = len(content[MODELS[0]]) * 5 // 2
        place.install(
            present(),
            BATCHWRIGHT_WEIGHTS_CACHE=json.dumps({"hostPath": WEIGHTS, "maxBytes": bound, "keepFreePercent": 0}),
            BATCHWRIGHT_ALLOW_HTTP="true",
            BATCHWRIGHT_ALLOW_PRIVATE_ADDRESSES="true",
        )
        data = place.data(20)
        place.kubectl.run("label", "namespace", PLACE, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
        place.apply(secret("store", AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_ENDPOINT_URL=address))
        yield Nodes(place=place, files=files, data=data)


def on_node(cluster: Cluster, name: str) -> Path:
    """The node's own folder of weights, as this machine sees it."""
    return Path(f"{cluster.nodes[name].files.folder}/root{WEIGHTS}")


def secret(name: str, **data: str) -> dict[str, Any]:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": PLACE}}
    return {**body, "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


@contextmanager
def deployed(nodes: Nodes, name: str, models: list[dict[str, Any]], **spec: Any) -> Iterator[list[dict[str, Any]]]:
    """Its pods when it is Ready. On leaving, none is left."""
    place, selector = nodes.place, f"app.kubernetes.io/component=model,batchwright.dev/deployment={name}"
    head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "ModelDeployment"}
    runtimes = [{"accelerator": "cpu", "resources": SMALL}]
    place.apply({**head, "metadata": {"name": name, "namespace": PLACE},
                 "spec": {"models": models, "runtimes": runtimes, **spec}})  # fmt: skip
    try:
        place.await_condition("modeldeployment", name, "Ready", 240)
        yield place.pods(selector)
    finally:
        place.kubectl.run("delete", "modeldeployment", name, "-n", PLACE, "--timeout=120s", timeout_s=150)
        until(lambda: not place.pods(selector), f"the pods of {name} are gone")


@contextmanager
def holding(nodes: Nodes, model: str, node: str, replicas: int = 1) -> Iterator[list[str]]:
    """Pods on this node that have the weights of this model; what their fetches said."""
    body = nodes.files.content[model]
    artifact = {
        "format": "onnx", "uri": f"s3://bucket/{model}", "sha256": hashlib.sha256(body).hexdigest(),
        "secretRef": {"name": "store"},
    }  # fmt: skip
    name = f"{model.partition('.')[0]}-on-{node}"
    placement = {"nodeSelector": {"kubernetes.io/hostname": node}}
    models = [{"name": "net", "artifacts": [artifact]}]
    with deployed(nodes, name, models, replicas=replicas, placement=placement) as pods:
        assert {each["spec"]["nodeName"] for each in pods} == {node}
        names = [each["metadata"]["name"] for each in pods]
        yield [nodes.place.kubectl.run("logs", "-n", PLACE, each, "-c", "fetch") for each in names]


def test_pods_of_a_node_fetch_once_and_those_of_another_node_by_themselves(nodes: Nodes) -> None:
    with holding(nodes, "one.onnx", "a", replicas=2) as said:
        assert nodes.files.names().count("one.onnx") == 1
        assert sorted("into the cache" in each for each in said) == [False, True]
        assert sorted("from the cache" in each for each in said) == [False, True]
        with holding(nodes, "one.onnx", "b") as others:
            assert "into the cache" in others[0]
        assert nodes.files.names().count("one.onnx") == 2
    found = {node: nodes.names(node) for node in NODES}
    assert found == {"a": {"one.onnx"}, "b": {"one.onnx"}, "c": set()}
    assert (nodes.counters("a").fetches, nodes.counters("a").hits) == (1, 1)


def test_a_node_keeps_what_pods_hold_and_evicts_what_none_has_used_for_long(nodes: Nodes) -> None:
    """Room for two of three: the one that is held is the least recently used."""
    with holding(nodes, "one.onnx", "c"):
        with holding(nodes, "two.onnx", "c"):
            assert nodes.names("c") == {"one.onnx", "two.onnx"}
        nodes.age("c", 1200)
        with holding(nodes, "three.onnx", "c") as said:
            assert "into the cache" in said[0]
            assert nodes.names("c") == {"one.onnx", "three.onnx"}
            with holding(nodes, "two.onnx", "c") as others:  # both that are there are held: past the cache
                assert "cache" not in others[0].rpartition("two.onnx:")[2]
            assert nodes.names("c") == {"one.onnx", "three.onnx"}
    counters = nodes.counters("c")
    assert (counters.evictions, counters.uncached) == (1, 1)
    total = sum(len(nodes.files.content[name]) for name in nodes.names("c"))
    assert total <= counters.max_bytes


def ask(nodes: Nodes, address: str, folder: Path, *, certificate: bool) -> dict[str, Any]:
    """What /v1/embeddings says, asked from a node through the Service; its error as it is."""
    node = nodes.place.cluster.nodes["a"]
    log = node.files.folder / "logs" / "ask.log"
    log.unlink(missing_ok=True)
    shown = str(folder / "client.pem") if certificate else ""
    body = json.dumps({"model": "words", "input": ["the cat sat", "a dog"]})
    given = [address, "8000", f"words.{PLACE}.svc", str(folder / "ca.pem"), shown, body]
    node.run_in_node("ask", [sys.executable, "-c", ASK, *given]).wait(60)
    said = log.read_text()
    return dict(json.loads(said)) if said.startswith("{") else {"error": said}


def test_a_model_of_texts_serves_who_shows_a_certificate_and_a_job(nodes: Nodes, tmp_path: Path) -> None:
    place, servers, clients = nodes.place, trustme.CA(), trustme.CA()
    data = nodes.data
    folder_of(data, "words", "sentence", SENTENCE_FILES)
    linear_onnx(made(data / "repository", "linear", "max_batch_size: 4", "1", "2") / "2" / "model.onnx")
    server, job, client = servers.issue_cert(f"words.{PLACE}.svc"), *(clients.issue_cert(each) for each in ("j", "c"))
    authority = servers.cert_pem.bytes().decode()
    place.apply(
        secret("words-tls", **pair(server), **{"ca.crt": authority}), secret("jobs-tls", **pair(job)),
        secret("clients", **{"ca.crt": clients.cert_pem.bytes().decode()}),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts", "namespace": PLACE},
         "data": {"text_functions.py": FUNCTIONS}},
    )  # fmt: skip
    (tmp_path / "ca.pem").write_text(authority)
    client.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    models = [
        {"name": "words", "artifacts": [{"format": "onnx", "uri": "pvc://data/words/"}],
         "batching": {"mode": "Rows"}, "task": {"type": "Embedding"}},
        {"name": "linear", "artifacts": [{"format": "triton-repository", "uri": "pvc://data/repository"}]},
    ]  # fmt: skip
    tls = {
        "secretRef": {"name": "words-tls"}, "clientAuth": "Required", "clientCaSecretRef": {"name": "clients"},
        "jobsSecretRef": {"name": "jobs-tls"},
    }  # fmt: skip
    with deployed(nodes, "words", models, replicas=2, tls=tls):
        address = place.kubectl.json("get", "service", "words", "-n", PLACE)["spec"]["clusterIP"]
        answer = ask(nodes, address, tmp_path, certificate=True)
        assert answer.get("status") == 200, answer
        found = [each["embedding"] for each in answer["body"]["data"]]
        np.testing.assert_allclose(found[0], vector([2, 4, 5, 6, 3], per_token=False), rtol=1e-4, atol=1e-5)
        assert "alert" in ask(nodes, address, tmp_path, certificate=False)["error"].lower()
        status = (place.get("modeldeployment", "words") or {})["status"]
        assert {each["name"]: each["readyReplicas"] for each in status["models"]} == {"words": 2, "linear": 2}
        results = job_over(place, data)
    assert len(results) == 20
    for record in results:
        ids = [2, 4 + int(record["id"].rpartition("-")[2]) % 5, 5, 3]
        np.testing.assert_allclose(record["numbers"]["vector"], TABLE[ids].mean(0), rtol=1e-4, atol=1e-5)


def pair(certificate: trustme.LeafCert) -> dict[str, str]:
    chain = "".join(each.bytes().decode() for each in certificate.cert_chain_pems)
    return {"tls.crt": chain, "tls.key": certificate.private_key_pem.bytes().decode()}


def job_over(place: Place, data: Path) -> list[dict[str, Any]]:
    tasks = [
        {"name": "tokens", "cpu": {"function": "text_functions:tokens"}},
        {"name": "ask", "dependsOn": ["tokens"], "model": {"deployment": "words", "model": "words"}},
        {"name": "numbers", "dependsOn": ["ask"], "cpu": {"function": "text_functions:numbers"}},
    ]
    spec = {
        "input": {"uri": "pvc://data/items.jsonl", "format": "jsonl", "shardSize": 20},
        "output": {"uri": "pvc://data/vectors", "format": "jsonl"}, "tasks": tasks, "parallelism": 1,
        "runner": {"configMaps": ["texts"], "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
    }  # fmt: skip
    head = {"apiVersion": "batchwright.dev/v1alpha1", "kind": "InferenceJob"}
    place.apply({**head, "metadata": {"name": "vectors", "namespace": PLACE}, "spec": spec})
    place.await_condition("inferencejob", "vectors", "Complete", 300)
    return records(data / "vectors")
