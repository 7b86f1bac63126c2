"""The models of a ModelDeployment as a user writes them, as frozen values; see `manifest`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from batchwright_worker.api.fields import (
    ATOMIC,
    SIGNED_NUMBER_PATTERN,
    Accelerator,
    Bytes,
    LocalObjectReference,
    ObjectName,
    Value,
    doc,
    keyed,
)
from batchwright_worker.api.formats import DECLARING, SCRIPTED, Format, listed
from batchwright_worker.api.text_task import TextTask

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BF16",
    "BYTES",
]


class Tensor(Value, kw_only=True, frozen=True):
    """One input or output of a model, per row unless `batched` is false."""

    name: Annotated[str, doc("Name of the tensor in the model and in requests.", min_length=1, max_length=128)]
    datatype: Annotated[Datatype, doc("Type of the elements, as the Open Inference Protocol writes it.")]
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=-1, le=1 << 31)], ...],
        doc(
            "Shape of one row: the batch dimension is left out, -1 is a dimension that varies; [] is a single number. "
            "With batched: false, or batching.mode: Whole, it is the whole shape.",
            max_length=16,
            extra_json_schema=ATOMIC,
        ),
    ]
    batched: Annotated[
        bool,
        doc(
            "false: it has no batch dimension and is passed whole, for example a threshold or a sampling rate. "
            "Requests share a batch only where their values of such an input are equal; each of them gets such an "
            "output as it is."
        ),
    ] = True
    layout: Annotated[
        Literal["NCHW", "NHWC"] | None,
        doc(
            "What the dimensions of a picture are, for clients: the model configuration says FORMAT_NCHW or "
            "FORMAT_NHWC of the input. Changes no number."
        ),
    ] = None
    labels: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=256)], ...],
        doc(
            "Of an output: the names of its classes, in the order of its numbers. Callers that ask for classes "
            "(class_count of Triton's clients) get VALUE:INDEX:LABEL with them, VALUE:INDEX without.",
            max_length=16_384,
            extra_json_schema=ATOMIC,
        ),
    ] = ()


class Targets(Value, kw_only=True, frozen=True):
    """What is asked of a model; the batch size is tuned until all that is set here is met."""

    latency_milliseconds: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=600_000)] | None,
        doc(
            "95 of 100 requests are to be answered within this time, queue included. Requests that cannot be are "
            "refused at once. Unset: no target, no refusal by time."
        ),
    ] = None
    throughput: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] | None,
        doc("Rows per second that one replica is to reach under load. Unset: as many as possible."),
    ] = None


class Padding(Value, kw_only=True, frozen=True):
    """Rows of unequal shape may share a batch when one dimension is padded up to a multiple."""

    dimension: Annotated[int, doc("Which dimension of a row, counted from 0 without the batch dimension.", ge=0, le=15)]
    multiple: Annotated[int, doc("The dimension is padded up to the next multiple of this.", ge=1, le=65_536)]
    value: Annotated[
        str,
        doc("Number to pad with, as a string.", max_length=26, pattern=SIGNED_NUMBER_PATTERN),
    ] = "0"


class Batching(Value, kw_only=True, frozen=True):
    """How rows become batches and how the batch size is tuned (methods A6-A8)."""

    mode: Annotated[
        Literal["Rows", "Whole"] | None,
        doc(
            "Rows: the first dimension of the tensors is the batch, and each row's answer depends on that row alone; a "
            "model that shows otherwise when it is loaded is refused. Whole: one request is one run, with shapes as "
            "the model has them; nothing is batched, split or padded (max_batch_size 0 of Triton). Unset: found out "
            "by trying the model with rows of different content when it is loaded: what fails is served Whole, and "
            "the model's message says why."
        ),
    ] = None
    min_size: Annotated[int, doc("Smallest batch size that the tuner may choose.", ge=1, le=4096)] = 1
    max_size: Annotated[int, doc("Largest batch size that the tuner may choose.", ge=1, le=4096)] = 32
    initial_size: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=4096)] | None,
        doc(
            "Batch size to start with. Unset: predicted, from the batches of the warm-up where one runs, else from the "
            "load table of the processor (as if the model behaved like the benchmark's), and from the first batches."
        ),
    ] = None
    step: Annotated[int, doc("Rows by which the tuner moves the batch size at a time.", ge=1, le=1024)] = 1
    window_milliseconds: Annotated[int, doc("Length of one observation window.", ge=50, le=600_000)] = 1000
    trend_length: Annotated[int, doc("How many windows the Mann-Kendall trend test looks back.", ge=4, le=100)] = 8
    max_queue_delay_milliseconds: Annotated[
        int,
        doc(
            "How long a free device may wait for a batch to fill. 0: never (work-conserving), nearly always best.",
            ge=0,
            le=60_000,
        ),
    ] = 0
    max_queue_length: Annotated[
        int, doc("Rows that may wait for this model in one replica; more are refused.", ge=1, le=1_000_000)
    ] = 10_000
    controller: Annotated[
        Literal["Auto", "MannKendall", "Fitted", "Literal"],
        doc(
            "How the batch size moves. Auto: by steps (method A6) that go as far as the measured times of a batch say "
            "once these are firm, never against the trend of the last windows (A7), until the targets are met (A8). "
            "MannKendall: by `step` only. Fitted: as Auto, from the first batch on. Literal: the published rule to the "
            "letter, a smaller batch whenever the latency is above its target, to compare with."
        ),
    ] = "Auto"
    padding: Annotated[Padding | None, doc("Unset: only rows of equal shape share a batch.")] = None


class TimeLimits(Value, kw_only=True, frozen=True):
    """How long the model may take before its runtime is taken for hung and replaced."""

    run_milliseconds: Annotated[
        Annotated[int, msgspec.Meta(ge=10, le=86_400_000)] | None,
        doc(
            "A batch that takes longer is given up: its runtime process is ended and started anew, the device's other "
            "models come back, and its rows are run once more apart from others. Unset: 20 times what is predicted of "
            "the batch, at least 30 s; at least 60 s where no batch of this size has run yet."
        ),
    ] = None
    load_milliseconds: Annotated[
        Annotated[int, msgspec.Meta(ge=100, le=86_400_000)] | None,
        doc(
            "A load that takes longer is given up in the same way, and tried again much later. Unset: 10 minutes for "
            "the first; then 20 times what loads have taken, at least a minute."
        ),
    ] = None


class WarmUpInput(Value, kw_only=True, frozen=True):
    """One input of the warm-up."""

    name: Annotated[str, doc("Name of the input.", min_length=1, max_length=128)]
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=1 << 31)], ...],
        doc(
            "Whole shape, as a request has it: with the batch dimension, best of 2 rows or more, whose content should "
            "differ.",
            max_length=16,
            extra_json_schema=ATOMIC,
        ),
    ]
    data: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=4096)], ...],
        doc(
            "Its elements in row-major order as text (numbers, true and false, or strings), or one element that fills "
            "the whole shape.",
            min_length=1,
            max_length=4096,
            extra_json_schema=ATOMIC,
        ),
    ]


class WarmUp(Value, kw_only=True, frozen=True):
    """What a model is tried with when it is loaded: to find out which dimension is the batch, to make its first answers
    as fast as later ones, and to measure it. A failed warm-up is a message in the status, no failed load."""

    mode: Annotated[
        Literal["Auto", "Skip"],
        doc(
            "Auto: made-up inputs (or `inputs`). Skip: the model is not run before its first request; without "
            "batching.mode it is served Whole then."
        ),
    ] = "Auto"
    inputs: Annotated[
        tuple[WarmUpInput, ...],
        doc(
            "All inputs of a call that the model takes, where made-up numbers do not suit it.",
            max_length=32,
            extra_json_schema=keyed("name"),
        ),
    ] = ()


class ConfigMapKey(Value, kw_only=True, frozen=True):
    """One entry of a ConfigMap of the same namespace."""

    name: Annotated[ObjectName, doc("Name of the ConfigMap.")]
    key: Annotated[str, doc("Key in it, for example model.py.", min_length=1, max_length=253)]


class Script(Value, kw_only=True, frozen=True):
    """The model's own inference script (method A2): exactly one of the three."""

    config_map_key_ref: Annotated[ConfigMapKey | None, doc("The script is this entry of a ConfigMap.")] = None
    module: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")] | None,
        doc("The script is this Python module of the runtime image, for example my_models.ranker."),
    ] = None
    file: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=253, pattern=r"^(\w[-\w.]*/)*\w[-\w.]*\.py$")] | None,
        doc("The script is this file of the folder that `uri` names, for example model.py."),
    ] = None


class Emulated(Value, kw_only=True, frozen=True):
    """A model of the emulated accelerator, a test instrument: n rows take fixed + n * perRow microseconds."""

    fixed_microseconds: Annotated[int, doc("Time of a batch whatever its size.", ge=0, le=600_000_000)] = 10_000
    per_row_microseconds: Annotated[int, doc("Time that each row adds to a batch.", ge=0, le=600_000_000)] = 2_000
    weights_bytes: Annotated[Bytes, doc("Device memory of the loaded model.")] = 0
    bytes_per_row: Annotated[Bytes, doc("Device memory that each row of a running batch takes.")] = 0
    load_milliseconds: Annotated[int, doc("Time to load the model onto the device.", ge=0, le=600_000)] = 0
    load_overlaps: Annotated[
        bool, doc("true: loading leaves the device free for batches (a copy engine); false: it blocks the device.")
    ] = False


URI_PATTERN = r"^([^p].*|p[^v].*|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/([^/].*)?)?)$"
"""The name of a claim; what an address must have besides a rule says."""


class Artifact(Value, kw_only=True, frozen=True):
    """The weights of a model for one kind of accelerator (method A2)."""

    accelerator: Annotated[
        Accelerator,
        doc("Kind of accelerator: cpu, or an extended resource such as nvidia.com/gpu or batchwright.dev/emulated."),
    ] = "cpu"
    format: Annotated[
        Format,
        doc(
            "What the model is. python: `script` builds it; triton-repository: a Triton model repository, whose model "
            "of this name is served as its config.pbtxt says (or that model's folder); triton-python: a model's folder "
            "of one, whose `script.file` has a TritonPythonModel; emulated: no file, see `emulated`. Of the others, in "
            "a folder it is model.onnx, model.pt2 (torch-export), model.pt (torchscript), model.safetensors or its "
            "index, else the only file with that suffix, else onnx/model.onnx; a python model gets the folder itself."
        ),
    ]
    uri: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern=URI_PATTERN)] | None,
        doc(
            "Where the model is: pvc://CLAIM/PATH (mounted read-only); https://, s3://, gs://, az://, "
            "hf://ORG/MODEL@REVISION, or models:/NAME/VERSION and models:/NAME@ALIAS of MLflow (fetched before the pod "
            "starts); oci://HOST/REPOSITORY@sha256:../PATH, an image that is mounted read-only (or :TAG; clusters with "
            "image volumes). file:// works only with `batchwright-worker serve`. What ends in / is a folder and is "
            "fetched whole (over https:// it has an index, SHA256SUMS); with any other come the files that it names: "
            "external data of ONNX, the shards of a safetensors index. Not with format emulated."
        ),
    ] = None
    sha256: Annotated[
        Annotated[str, msgspec.Meta(min_length=64, max_length=64, pattern="^[0-9a-f]{64}$")] | None,
        doc(
            "SHA-256 in lower-case hexadecimal digits, as `batchwright-worker digest PATH` prints it: of the file, or "
            "over all files of a folder or of a model that names others. What differs is refused. Unset: not checked."
        ),
    ] = None
    max_bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1 << 50)],
        doc("All files that are fetched may be this large together; also the size of the volume for them."),
    ] = 10 << 30
    secret_ref: Annotated[
        LocalObjectReference | None,
        doc(
            "Secret with the credentials of the fetch: entries AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL for s3; credentials.json for gs; "
            "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN for az; HF_TOKEN for "
            "hf; MLFLOW_TRACKING_URI, with MLFLOW_TRACKING_TOKEN or MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, for models, beside those of the bucket; authorization (the header) for https. "
            "For oci a Secret of type kubernetes.io/dockerconfigjson: one of the pod's imagePullSecrets."
        ),
    ] = None
    script: Annotated[Script | None, doc(f"The inference script, for formats {listed(SCRIPTED)}.")] = None
    emulated: Annotated[Emulated | None, doc("The emulated model; with format emulated only.")] = None


class Model(Value, kw_only=True, frozen=True):
    """One model."""

    name: Annotated[
        str,
        doc(
            "Name in requests (/v2/models/NAME/infer); unique in the deployment.",
            min_length=1,
            max_length=63,
            pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
        ),
    ]
    version: Annotated[
        Annotated[str, msgspec.Meta(max_length=10, pattern=r"^[1-9][0-9]*$")] | None,
        doc(
            "The model's one version, which requests may name (/v2/models/NAME/versions/VERSION/infer) and answers do. "
            "Unset: 1."
        ),
    ] = None
    artifacts: Annotated[
        tuple[Artifact, ...],
        doc(
            "One per kind of accelerator that may run the model.",
            min_length=1,
            max_length=10,
            extra_json_schema=ATOMIC,  # a key of a list may only be left out where the schema has a default for it
        ),
    ]
    inputs: Annotated[
        tuple[Tensor, ...],
        doc(
            f"Inputs per row. May be left out where the artifact tells ({', '.join(DECLARING)}); what is written is "
            "held against the model when it is loaded.",
            max_length=32,
            extra_json_schema=keyed("name"),
        ),
    ] = ()
    outputs: Annotated[
        tuple[Tensor, ...],
        doc(
            "Outputs per row. May be left out where the artifact tells. Answers are held against them.",
            max_length=32,
            extra_json_schema=keyed("name"),
        ),
    ] = ()
    targets: Annotated[
        Targets, doc("What is asked of this model. A change reaches the pods as they run, within seconds.")
    ] = Targets()
    limits: Annotated[
        TimeLimits,
        doc("When the model is taken for hung; the defaults suit nearly every model. Changed as targets are."),
    ] = TimeLimits()
    batching: Annotated[
        Batching,
        doc(
            "How rows become batches; the defaults suit nearly every model. Changed as targets are, but for mode and "
            "padding, which replace the pods."
        ),
    ] = Batching()
    warmup: Annotated[WarmUp, doc("What the model is tried with when it is loaded.")] = WarmUp()
    task: Annotated[
        TextTask | None,
        doc(
            "Serve it to OpenAI's and Cohere's clients, with texts: /v1/embeddings and /v1/rerank. Unset: with tensors "
            "alone."
        ),
    ] = None

    @property
    def served_version(self) -> str:
        """The version that callers see."""
        return self.version or "1"
