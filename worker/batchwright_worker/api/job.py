"""The InferenceJob that a user writes, as frozen values; see `manifest`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from batchwright_worker.api.fields import (
    ATOMIC,
    UNIQUE,
    EnvVar,
    Label,
    LocalObjectReference,
    ObjectName,
    PodOptions,
    ResourceRequirements,
    Toleration,
    Value,
    doc,
    keyed,
)

Uri = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
TaskName = Annotated[
    str, msgspec.Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?$")
]

Column = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]


class Input(Value, kw_only=True, frozen=True):
    """The data set."""

    uri: Annotated[
        Uri,
        doc(
            "A file, a directory or a pattern with *: pvc://CLAIM/PATH, s3://, gs://, az:// or https:// (one file). "
            "file:// works only with `batchwright-worker run`."
        ),
    ]
    format: Annotated[
        Literal["images", "jsonl", "csv", "parquet", "npy", "text", "arrow", "webdataset"],
        doc(
            "images: one item per file; jsonl and text: per line; csv, parquet and arrow (as `datasets` saves it): "
            "per record; npy: per element of the first dimension; webdataset: per key of a tar file. Lines may be "
            "compressed (.gz, .zst), tar files as well (.gz)."
        ),
    ]
    secret_ref: Annotated[
        LocalObjectReference | None, doc("Secret with credentials, as in an artifact's secretRef of a ModelDeployment.")
    ] = None
    id_field: Annotated[
        str,
        doc(
            "Field of jsonl, csv, parquet and arrow records whose value is the item's id; of webdataset the key is. "
            'Where there is none, and in all if this is "", the id is made of the file\'s name and the place in it.',
            max_length=253,
        ),
    ] = "id"
    delimiter: Annotated[
        str,
        doc(
            "Between the values of csv records, one character. Unset: a tab in .tsv files, else a comma.", max_length=1
        ),
    ] = ""
    shard_size: Annotated[
        int,
        doc(
            "Items per shard; a shard is what one runner pod does at a time and what is repeated after a failure.",
            ge=1,
            le=10_000_000,
        ),
    ] = 1000


class Output(Value, kw_only=True, frozen=True):
    """Where the results go: one file per shard, in input order, and a manifest at the end."""

    uri: Annotated[
        Uri,
        doc("A directory: pvc://CLAIM/PATH, s3://, gs://, az://. file:// works only with `batchwright-worker run`."),
    ]
    secret_ref: Annotated[
        LocalObjectReference | None, doc("Secret with credentials, as in an artifact's secretRef of a ModelDeployment.")
    ] = None
    format: Annotated[Literal["jsonl", "parquet"], doc("Format of the shards' files.")] = "jsonl"
    compression: Annotated[
        Literal["none", "gzip", "zstd"], doc("Of jsonl parts (.jsonl.gz, .jsonl.zst). Parquet compresses by itself.")
    ] = "none"
    pass_through: Annotated[
        tuple[Column, ...],
        doc(
            "Fields of the input's records that each result carries along, under their names. Inputs of records only: "
            "jsonl, csv, parquet, arrow, webdataset.",
            max_length=256,
            extra_json_schema=UNIQUE,
        ),
    ] = ()
    mode: Annotated[
        Literal["New", "Overwrite", "RetryFailed"],
        doc(
            "New: results of another job, input, code or model that lie there are an error. Overwrite: they are "
            "removed. RetryFailed: the results are complete, and of this very input, tasks, code and models; only the "
            "items that failed are run, again. What no job has made is never touched, and is an error."
        ),
    ] = "New"


class CpuTask(Value, kw_only=True, frozen=True):
    """A Python function."""

    function: Annotated[
        str,
        doc(
            "`module:callable` from the runner image or a ConfigMap of `runner.configMaps`, or the name of a built-in. "
            "A class is made into an object once in each process (its arguments: `args`), which is then called.",
            min_length=1,
            max_length=253,
        ),
    ]
    args: Annotated[dict[str, Any], doc("Keyword arguments of the function.")] = msgspec.field(default_factory=dict)
    batch: Annotated[
        bool,
        doc(
            "The function takes many items at once: every input is a numpy array whose first dimension counts the "
            "items, a list, or a dict of these by field, and so is what it returns (or an Arrow table). If it raises, "
            "it is called again for each item alone. Not for built-ins."
        ),
    ] = False
    timeout_seconds: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=86_400)] | None,
        doc(
            "The longest time that the function may take for an item, its input decoded. Then the item fails, and the "
            "process that was in the function is replaced. Unset: no limit."
        ),
    ] = None


class ModelTask(Value, kw_only=True, frozen=True):
    """A model of a ModelDeployment in the same namespace."""

    deployment: Annotated[ObjectName, doc("Name of the ModelDeployment.")]
    model: Annotated[str, doc("Name of the model in it.", min_length=1, max_length=63)]


class Task(Value, kw_only=True, frozen=True):
    """One step of the DAG: exactly one of `cpu` and `model`."""

    name: Annotated[TaskName, doc("Name of the task; unique in the job.")]
    depends_on: Annotated[
        tuple[TaskName, ...],
        doc(
            "Tasks whose results this one takes, each of which stands earlier in the list; unset: it takes the item.",
            max_length=16,
            extra_json_schema=UNIQUE,
        ),
    ] = ()
    cpu: Annotated[CpuTask | None, doc("A function on the CPU.")] = None
    model: Annotated[ModelTask | None, doc("A model on its accelerators.")] = None


class RunnerPod(PodOptions, kw_only=True, frozen=True):
    """Fields of the runner pods that Batchwright does not decide about; each is taken over into the pod as it is."""

    node_selector: Annotated[dict[str, Label], doc("Labels that a node must have.", max_length=32)] = msgspec.field(
        default_factory=dict
    )
    tolerations: Annotated[
        tuple[Toleration, ...], doc("Taints that the pods put up with.", max_length=32, extra_json_schema=ATOMIC)
    ] = ()


class Runner(Value, kw_only=True, frozen=True):
    """The pods that run the tasks."""

    image: Annotated[
        Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None,
        doc("Image of the runner. Unset: the operator's worker image."),
    ] = None
    resources: Annotated[
        ResourceRequirements | None, doc("Resources of the runner. Unset: the operator's setting.")
    ] = None
    env: Annotated[
        tuple[EnvVar, ...], doc("Environment variables of the runner.", max_length=64, extra_json_schema=keyed("name"))
    ] = ()
    config_maps: Annotated[
        tuple[ObjectName, ...],
        doc(
            "ConfigMaps whose entries are Python files; `module:callable` finds them.",
            max_length=16,
            extra_json_schema=UNIQUE,
        ),
    ] = ()
    cpu_workers: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=256)] | None,
        doc("Processes for CPU tasks in each runner. Unset: the runner's CPU request, rounded up."),
    ] = None
    pod: Annotated[RunnerPod, doc("Further fields of the runner pods.")] = RunnerPod()


class InferenceJobSpec(Value, kw_only=True, frozen=True):
    """What the user wants. `input`, `output`, `tasks`, `runner` and `backoffLimitPerShard` cannot be changed later."""

    suspend: Annotated[bool, doc("true: no runner pods; shards that are complete stay complete.")] = False
    input: Annotated[Input, doc("The data set. Immutable.")]
    output: Annotated[Output, doc("Where the results go. Immutable.")]
    tasks: Annotated[
        tuple[Task, ...],
        doc(
            "The DAG, each task after those it depends on. Immutable.",
            min_length=1,
            max_length=64,
            extra_json_schema=keyed("name"),
        ),
    ]
    runner: Annotated[Runner, doc("The pods that run the tasks. Immutable.")] = Runner()
    parallelism: Annotated[
        int, doc("Shards that run at the same time; may be changed while the job runs.", ge=1, le=10_000)
    ] = 1
    backoff_limit_per_shard: Annotated[
        int, doc("How often a shard is repeated after a failure before the job fails. Immutable.", ge=0, le=100)
    ] = 3
    max_failed_items: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | None,
        doc(
            "The job fails when more items than this failed; the others are listed in the output. Unset: it fails when "
            "of at least 100 items more than half failed."
        ),
    ] = None
    active_deadline_seconds: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1 << 31)] | None,
        doc("The job fails when it runs longer than this. Unset: no deadline."),
    ] = None
    ttl_seconds_after_finished: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] | None,
        doc("The job is deleted this long after its end. Unset: never, which is what GitOps needs."),
    ] = None


class InferenceJob(msgspec.Struct, kw_only=True, frozen=True):
    """An InferenceJob as far as runners and local mode need it: identity and spec, defaults included."""

    name: str
    namespace: str = "default"
    spec: InferenceJobSpec


def parse_job_spec(spec: dict[str, Any]) -> InferenceJobSpec:
    """Raises msgspec.ValidationError, which names the field (`$.tasks[0].name`), if the spec breaks the schema."""
    return msgspec.convert(spec, InferenceJobSpec)


def parse_job(raw: dict[str, Any]) -> InferenceJob:
    """From a raw object with metadata and spec; raises as `parse_job_spec`."""
    metadata = raw["metadata"]
    return InferenceJob(
        name=metadata["name"], namespace=metadata.get("namespace", "default"), spec=parse_job_spec(raw.get("spec", {}))
    )
