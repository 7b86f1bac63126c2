"""Batchwright for Python programs and notebooks: describe objects, apply them, wait, call models, read a job's output.

    import batchwright as bw

    deployment = bw.model_deployment("scoring", bw.ModelDeploymentSpec(models=(
        bw.Model(name="scorer", artifacts=(bw.Artifact(format="onnx", uri="pvc://models/scorer.onnx"),)),
    )))
    cluster = bw.Cluster()          # your kubeconfig's context and namespace
    cluster.apply(deployment)
    cluster.wait(deployment)
    bw.Endpoint("http://scoring:8000").infer("scorer", {"features": rows})

The types of specs are those that operator and sidecar read; `problems` and `Manifest.checked` say before the API server
does what it would refuse. `Cluster` needs the extra `sdk`; nothing else here needs a cluster.
"""

from __future__ import annotations

from batchwright.cluster import Cluster, NotReached
from batchwright.endpoint import Endpoint, InferenceFailed
from batchwright.local import LocalRunFailed, run_local
from batchwright.manifests import InvalidManifest, Manifest, inference_job, load, model_deployment
from batchwright.outputs import NotComplete, Output, read_output
from batchwright_worker.api.deployment import ModelDeploymentSpec, Placement, Runtime, Tls
from batchwright_worker.api.job import CpuTask, InferenceJobSpec, Input, ModelTask, Runner, Task
from batchwright_worker.api.job import Output as OutputSpec
from batchwright_worker.api.model import Artifact, Batching, Model, Targets, Tensor
from batchwright_worker.api.validation import Problem

__all__ = [
    "Artifact",
    "Batching",
    "Cluster",
    "CpuTask",
    "Endpoint",
    "InferenceFailed",
    "InferenceJobSpec",
    "Input",
    "InvalidManifest",
    "LocalRunFailed",
    "Manifest",
    "Model",
    "ModelDeploymentSpec",
    "ModelTask",
    "NotComplete",
    "NotReached",
    "Output",
    "OutputSpec",
    "Placement",
    "Problem",
    "Runner",
    "Runtime",
    "Targets",
    "Task",
    "Tensor",
    "Tls",
    "inference_job",
    "load",
    "model_deployment",
    "read_output",
    "run_local",
]
