"""Good manifests, and the bad ones of bad_manifests.yaml made from them."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
API = "batchwright.dev/v1alpha1"


def document(text: str) -> Document:
    """One manifest; a `metadata.namespace` of its own is not needed."""
    loaded: Document = yaml.safe_load(text)
    return {"apiVersion": API, **loaded}


MINIMAL_DEPLOYMENT = document("""
kind: ModelDeployment
metadata: {name: ocr}
spec:
  models:
  - name: recognizer
    artifacts: [{format: onnx, uri: pvc://models/rec.onnx}]
""")
MINIMAL_JOB = document("""
kind: InferenceJob
metadata: {name: pages}
spec:
  input: {uri: pvc://data/pages, format: images}
  output: {uri: pvc://data/out}
  tasks:
  - {name: decode, cpu: {function: decode}}
  - {name: detect, dependsOn: [decode], model: {deployment: ocr, model: detector}}
""")
WHOLE_DEPLOYMENT = document("""
kind: ModelDeployment
metadata: {name: everything}
spec:
  replicas: 3
  disruptionBudget: {mode: Managed, maxUnavailable: 50%}
  networkPolicy:
    from:
    - {namespaceSelector: {matchLabels: {team: web}}, podSelector: {}}
    - {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}
  models:
  - name: det_v4.1
    inputs: [{name: x, datatype: FP32, shape: [3, -1, -1], layout: NCHW}]
    outputs: [{name: y, datatype: FP32, shape: [1, -1, -1], labels: [cat, "", straße]}]
    targets: {latencyMilliseconds: 100, throughput: 400}
    batching: {minSize: 2, maxSize: 64, initialSize: 8, step: 4, windowMilliseconds: 500, trendLength: 10,
               maxQueueDelayMilliseconds: 5, maxQueueLength: 500, controller: MannKendall,
               padding: {dimension: 2, multiple: 32, value: "-1.5"}}
    artifacts:
    - {format: onnx, uri: "https://models.example.org/det.onnx", maxBytes: 1000,
       sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, secretRef: {name: token}}
    - {accelerator: nvidia.com/gpu, format: safetensors, uri: "s3://bucket/det.safetensors",
       script: {configMapKeyRef: {name: scripts, key: det.py}}}
    - {accelerator: batchwright.dev/emulated, format: emulated, emulated: {weightsBytes: 1000, loadOverlaps: true}}
  - name: rec
    inputs: [{name: x, datatype: BYTES, shape: []}]
    outputs: [{name: y, datatype: INT64, shape: [-1]}]
    artifacts:
    - {format: python, script: {module: my_package.rec}}
    - {accelerator: nvidia.com/gpu, format: torch-export, uri: "gs://bucket/rec.pt2"}
    - {accelerator: batchwright.dev/emulated, format: emulated, emulated: {}}
  runtimes:
  - {accelerator: cpu, resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {cpu: 2}},
     env: [{name: A, value: b}, {name: N, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}],
     memoryBudgetBytes: 1000000}
  - {accelerator: nvidia.com/gpu, count: 2, image: triton, protocol: open-inference, port: 9000, grpcPort: 9001,
     args: [--http-port=9000]}
  queueOrder: Oldest
  layerwise: {mode: Balanced, skipLimit: 16, memoryBudgetBytes: 500000000}
  placement:
    policy: Forecast
    nodeSelector: {zone: a}
    tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
    weights: {utilization: "2", memory: "0.5", capacity: "0"}
    spread: false
    rebalance: OnSustainedImbalance
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 0, maxUnavailable: 25%}}
  repositoryControl: true
  tls: {secretRef: {name: ocr-tls}, serverName: ocr.example.org, clientAuth: Required,
        clientCaSecretRef: {name: clients}, jobsSecretRef: {name: jobs}}
  pod:
    serviceAccountName: models
    imagePullSecrets: [{name: pull}]
    volumes: [{name: cache, emptyDir: {sizeLimit: 1Gi}}, {name: meta, downwardAPI: {items: []}}]
    volumeMounts: [{name: cache, mountPath: /cache}]
    priorityClassName: high
    runtimeClassName: nvidia
    securityContext: {runAsUser: 1000}
    labels: {team: vision}
    annotations: {note: "1"}
""")
WHOLE_JOB = document("""
kind: InferenceJob
metadata: {name: everything}
spec:
  suspend: true
  input: {uri: "s3://bucket/pages/*.png", format: images, shardSize: 16, secretRef: {name: s3}}
  output: {uri: "gs://bucket/out", format: parquet, secretRef: {name: gs}}
  tasks:
  - {name: decode, cpu: {function: decode, args: {mode: RGB, size: [3, 4]}}}
  - {name: detect, dependsOn: [decode], model: {deployment: ocr, model: detector}}
  - {name: crop, dependsOn: [decode, detect], cpu: {function: "ocr_steps:crop"}}
  runner:
    image: localhost/batchwright-ocr:dev
    resources: {requests: {cpu: 1}}
    env: [{name: A, value: b}]
    configMaps: [ocr-steps]
    cpuWorkers: 2
    pod: {labels: {kueue.x-k8s.io/queue-name: q}, tolerations: [{operator: Exists}], nodeSelector: {a: b}}
  parallelism: 4
  backoffLimitPerShard: 0
  maxFailedItems: 0
  activeDeadlineSeconds: 3600
  ttlSecondsAfterFinished: 0
""")
GOOD = [MINIMAL_DEPLOYMENT, MINIMAL_JOB, WHOLE_DEPLOYMENT, WHOLE_JOB]
_BASES = {"ModelDeployment": MINIMAL_DEPLOYMENT, "InferenceJob": MINIMAL_JOB}


@dataclass(frozen=True, slots=True, kw_only=True)
class BadManifest:
    """A document that must be refused, and what the refusal must say; `local_words` None: local mode takes it."""

    name: str
    document: Document
    field: str
    words: list[str]
    local_words: list[str] | None


def _assign(target: Document, path: str, value: Any) -> None:
    """Sets the value at a path such as spec.models[0].name; None removes it."""
    *parents, last = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path)]
    place: Any = target
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    elif isinstance(last, int) and last == len(place):
        place.append(value)
    else:
        place[last] = value


def _bad(kind: str, case: Document) -> BadManifest:
    changed = copy.deepcopy(_BASES[kind])
    for path, value in case["set"].items():
        _assign(changed, "metadata.name" if path == "metadata.name" else path, value)
    local = case.get("local", case["words"])
    words = None if local == "accepted" else local
    return BadManifest(name=case["name"], document=changed, field=case["field"], words=case["words"], local_words=words)


def bad_manifests() -> list[BadManifest]:
    """All cases of the table."""
    table = yaml.safe_load((Path(__file__).parent / "bad_manifests.yaml").read_text())
    return [_bad(kind, case) for kind, cases in table.items() for case in cases]
