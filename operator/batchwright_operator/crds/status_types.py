"""What the operator writes: the status of the three kinds, as types from which the schemas are made.

Nothing reads these at run time; they are the one place where a status field is named and described. Every field is
optional, so that a status can be written whole from the first visit on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

from batchwright_operator.placement.scoring import TERMS, Term
from batchwright_worker.api.fields import ATOMIC, Value, doc, keyed

Decimal = str | None
Whole = int | None
Text = str | None
Time = Annotated[datetime, msgspec.Meta(tz=True)] | None


Conditions = Annotated[tuple[dict[str, Any], ...], doc("The state, aspect by aspect; `conditions` has their schema.")]


class Address(Value, kw_only=True, frozen=True):
    """Where requests go."""

    url: Annotated[Text, doc("Base URL of the Open Inference Protocol, within the cluster.")] = None


class Percentiles(Value, kw_only=True, frozen=True):
    """Latency over all replicas in the last window, from pooled histograms."""

    p50: Annotated[Whole, doc("Half of the requests took at most this.")] = None
    p95: Annotated[Whole, doc("95 of 100 requests took at most this.")] = None
    p99: Annotated[Whole, doc("99 of 100 requests took at most this.")] = None


class FitStatus(Value, kw_only=True, frozen=True):
    """The time of a batch as fitted, the way to the runtime and back included; medians over the replicas."""

    fixed_milliseconds: Annotated[Decimal, doc("Time of a batch whatever its size, a decimal string.")] = None
    per_row_milliseconds: Annotated[Decimal, doc("Time that each row adds, a decimal string.")] = None
    knee: Annotated[Whole, doc("Rows of a batch from which on more are served no faster.")] = None


class TuningStatus(Value, kw_only=True, frozen=True):
    """How the batch size is decided (methods A6 to A8), over all replicas. Written with the measured values."""

    controller: Annotated[Text, doc("The controller in force, see batching.controller.")] = None
    proposed_size: Annotated[Whole, doc("Batch size that the last window of most replicas wanted.")] = None
    held_because: Annotated[
        Text,
        doc(
            "Why the size is held, as one word: TargetMet, AtMaximum, AtMinimum, NoFasterBeyond (the knee), Overloaded "
            "(more is offered than any size can serve), TrendDisagrees, TargetMissedOnce. Of the last 8 windows the "
            "reason of most; none while the size moves."
        ),
    ] = None
    held_by: Annotated[Text, doc("The rule that holds it: StopRule (A8), TrendGuard (A7), Step (a bound of A6).")] = (
        None
    )
    searching: Annotated[bool | None, doc("Whether any replica looks for a better size.")] = None
    rows_limit: Annotated[Whole, doc("Most rows of a batch: the median of the last 8 windows, in most replicas.")] = (
        None
    )
    bound_by: Annotated[
        Text,
        doc(
            "What bounded batches in most of them: Size (the tuned one), Knee (of the rows' shape), Reach (twice what "
            "was seen), InTime (admission: the first row of a larger one would be late), FairShare (other models' "
            "targets), Memory."
        ),
    ] = None
    fit: Annotated[FitStatus | None, doc("The fitted time of a batch.")] = None
    published_throughput: Annotated[
        Whole, doc("Batch size / p95 (method A8) in rows per second, over all replicas.")
    ] = None
    possible_throughput: Annotated[
        Whole, doc("Rows per second that full batches of the tuned size would serve, over all replicas.")
    ] = None


class ModelStatus(Value, kw_only=True, frozen=True):
    """One model over all replicas."""

    name: Annotated[str, doc("Name of the model.")]
    ready_replicas: Annotated[Whole, doc("Pods in which it is ready.")] = None
    mode: Annotated[
        Literal["Rows", "Whole"] | None,
        doc("Rows: rows of several requests share a run. Whole: each request is a run of its own. See batching.mode."),
    ] = None
    message: Annotated[
        Text,
        doc(
            "Why it is not ready in one of them; else what there is to know of it: why it is Whole, that its warm-up "
            "failed."
        ),
    ] = None
    batch_size: Annotated[Whole, doc("Batch size that most replicas use.")] = None
    batch_size_min: Annotated[Whole, doc("Smallest batch size of any replica.")] = None
    batch_size_max: Annotated[Whole, doc("Largest batch size of any replica.")] = None
    trend: Annotated[Literal["Rising", "Falling", "Flat"] | None, doc("Where the wanted batch size goes.")] = None
    trend_z: Annotated[Decimal, doc("Z of the Mann-Kendall test behind the trend (method A7), a decimal string.")] = (
        None
    )
    latency_milliseconds: Annotated[Percentiles | None, doc("Latency as callers see it.")] = None
    throughput: Annotated[Whole, doc("Rows per second.")] = None
    queue_length: Annotated[Whole, doc("Rows that wait.")] = None
    tuning: Annotated[TuningStatus | None, doc("How the batch size is decided.")] = None
    last_change_time: Annotated[Time, doc("When a replica last changed its batch size.")] = None
    last_change_reason: Annotated[Text, doc("Why it did.")] = None
    last_change_rule: Annotated[
        Text, doc("The rule that changed it: FirstSize, Step (A6), or FittedStep (A6 with a variable step).")
    ] = None
    layerwise: Annotated[
        Text, doc("Where it is served layer by layer: how it was cut, and what its units take alone.")
    ] = None


class ReplicaModelStatus(Value, kw_only=True, frozen=True):
    """One model in one replica."""

    name: Annotated[str, doc("Name of the model.")]
    batch_size: Annotated[Whole, doc("Batch size now.")] = None
    p95_milliseconds: Annotated[Whole, doc("95 of 100 requests took at most this.")] = None
    throughput: Annotated[Whole, doc("Rows per second.")] = None


class ReplicaStatus(Value, kw_only=True, frozen=True):
    """One pod."""

    pod: Annotated[str, doc("Name of the pod.")]
    node: Annotated[Text, doc("Node that it is on.")] = None
    processor: Annotated[Text, doc("Kind of accelerator that it runs on.")] = None
    ready: Annotated[bool | None, doc("Whether it answers requests.")] = None
    message: Annotated[Text, doc("Why it does not.")] = None
    models: Annotated[
        tuple[ReplicaModelStatus, ...],
        doc("Its models, where all pods' together are at most 1,000.", extra_json_schema=keyed("name")),
    ] = ()


def terms_status(terms: Mapping[str, Term]) -> type[msgspec.Struct]:
    """The type of the terms that a placement's load is made of: one field per term."""
    fields = [(name, Annotated[Decimal, doc(term.description)], None) for name, term in terms.items()]
    about = "Terms that add up to a load (method A4), each a decimal string."
    return msgspec.defstruct(
        "TermsStatus", fields, bases=(Value,), namespace={"__doc__": about}, kw_only=True, frozen=True
    )


if TYPE_CHECKING:  # a made class is no type to mypy
    TermsStatus: TypeAlias = Value
else:
    TermsStatus = terms_status(TERMS)


class RunnerUpStatus(Value, kw_only=True, frozen=True):
    """A candidate that lost."""

    node: Annotated[str, doc("Its node.")]
    processor: Annotated[Text, doc("Its kind of accelerator.")] = None
    load: Annotated[Decimal, doc("Its load, a decimal string.")] = None


class PlacementStatus(Value, kw_only=True, frozen=True):
    """Why a pod is where it is; the same as the receipt in the pod's annotations."""

    pod: Annotated[str, doc("Name of the pod.")]
    node: Annotated[Text, doc("Node that was picked.")] = None
    processor: Annotated[Text, doc("Kind of accelerator.")] = None
    load: Annotated[Decimal, doc("Load of the processor when it was picked, in [0, 1], a decimal string.")] = None
    terms: Annotated[TermsStatus | None, doc("What the load is made of.")] = None
    predicted_throughput: Annotated[Whole, doc("Rows per second that were forecast.")] = None
    observed_throughput: Annotated[Whole, doc("Rows per second that are measured.")] = None
    runners_up: Annotated[
        tuple[RunnerUpStatus, ...], doc("The best candidates that lost, at most 3.", extra_json_schema=ATOMIC)
    ] = ()
    decided_time: Annotated[Time, doc("When it was decided.")] = None
    reason: Annotated[Text, doc("Why, as a sentence.")] = None


class DeploymentSummary(Value, kw_only=True, frozen=True):
    """Scalars for the printer columns."""

    reason: Annotated[Text, doc("Reason of the condition that matters most.")] = None
    batch: Annotated[
        Text, doc("Batch size per model, in the order of spec.models; smallest and largest of more than 8.")
    ] = None
    p95: Annotated[Whole, doc("Highest p95 of any model in milliseconds.")] = None
    throughput: Annotated[Whole, doc("Rows per second over all models.")] = None
    nodes: Annotated[Text, doc("Nodes that the pods are on.")] = None


class ModelDeploymentStatus(Value, kw_only=True, frozen=True):
    """What the operator found and did. Written by the operator only."""

    observed_generation: Annotated[
        Whole, doc("metadata.generation that this status was decided from; -1: none yet.")
    ] = None
    conditions: Conditions = ()
    replicas: Annotated[Whole, doc("Pods that exist.")] = None
    ready_replicas: Annotated[Whole, doc("Pods that answer requests.")] = None
    configured_replicas: Annotated[
        Whole, doc("Pods that serve by the newest targets, limits and bounds of batches.")
    ] = None
    selector: Annotated[Text, doc("Label selector of the pods, for the scale subresource.")] = None
    address: Annotated[Address | None, doc("Where requests go.")] = None
    models: Annotated[
        tuple[ModelStatus, ...], doc("Each model over all replicas.", extra_json_schema=keyed("name"))
    ] = ()
    replica_statuses: Annotated[
        tuple[ReplicaStatus, ...], doc("Each pod, at most 50.", extra_json_schema=keyed("pod"))
    ] = ()
    placements: Annotated[
        tuple[PlacementStatus, ...], doc("The newest placements, at most 20.", extra_json_schema=keyed("pod"))
    ] = ()
    summary: Annotated[DeploymentSummary | None, doc("Scalars for the printer columns.")] = None
    last_updated_time: Annotated[Time, doc("When this status was last written.")] = None


class Shards(Value, kw_only=True, frozen=True):
    """Progress by shard; indexes in the text format of an Indexed Job."""

    total: Annotated[Whole, doc("Shards of the plan.")] = None
    completed_indexes: Annotated[Text, doc("Shards whose output is complete, for example 0-17,19.")] = None
    failed_indexes: Annotated[Text, doc("Shards that failed permanently.")] = None


class Items(Value, kw_only=True, frozen=True):
    """Progress by item."""

    total: Annotated[Whole, doc("Items of the input.")] = None
    succeeded: Annotated[Whole, doc("Items with a result.")] = None
    failed: Annotated[Whole, doc("Items with an error record.")] = None


class TaskStatus(Value, kw_only=True, frozen=True):
    """One task over all shards."""

    name: Annotated[str, doc("Name of the task.")]
    kind: Annotated[Literal["CPU", "Model"] | None, doc("What runs it.")] = None
    succeeded: Annotated[Whole, doc("Items that it is done for.")] = None
    failed: Annotated[Whole, doc("Items that it failed for.")] = None
    mean_batch_size: Annotated[Decimal, doc("Model tasks: mean size of the batches, a decimal string.")] = None
    p95_milliseconds: Annotated[Whole, doc("95 of 100 items took at most this.")] = None


class Failure(Value, kw_only=True, frozen=True):
    """One failed item."""

    shard: Annotated[Whole, doc("Its shard.")] = None
    item: Annotated[Text, doc("Its id.")] = None
    task: Annotated[Text, doc("The task that failed.")] = None
    message: Annotated[Text, doc("What was wrong with it.")] = None


class JobSummary(Value, kw_only=True, frozen=True):
    """Scalars for the printer columns."""

    reason: Annotated[Text, doc("Reason of the condition that matters most.")] = None
    progress: Annotated[Text, doc("Share of the items that are done.")] = None
    throughput: Annotated[Decimal, doc("Items per second, a decimal string.")] = None
    failed: Annotated[Whole, doc("Items with an error record.")] = None
    eta: Annotated[Text, doc("Time to the end at the measured rate.")] = None


class InferenceJobStatus(Value, kw_only=True, frozen=True):
    """What the operator found and did. Written by the operator only."""

    observed_generation: Annotated[
        Whole, doc("metadata.generation that this status was decided from; -1: none yet.")
    ] = None
    conditions: Conditions = ()
    start_time: Annotated[Time, doc("When the job started.")] = None
    completion_time: Annotated[Time, doc("When the job was complete.")] = None
    shards: Annotated[Shards | None, doc("Progress by shard.")] = None
    items: Annotated[Items | None, doc("Progress by item.")] = None
    throughput: Annotated[Decimal, doc("Items per second, a decimal string.")] = None
    progress_percentage: Annotated[Whole, doc("Share of the items that are done.")] = None
    estimated_remaining_seconds: Annotated[Whole, doc("Time to the end at the measured rate.")] = None
    last_updated_time: Annotated[Time, doc("When progress was last written.")] = None
    tasks: Annotated[tuple[TaskStatus, ...], doc("Each task over all shards.", extra_json_schema=keyed("name"))] = ()
    failures: Annotated[
        tuple[Failure, ...],
        doc("The first failed items, at most 10; all of them are in the output.", extra_json_schema=ATOMIC),
    ] = ()
    summary: Annotated[JobSummary | None, doc("Scalars for the printer columns.")] = None


class Device(Value, kw_only=True, frozen=True):
    """One device of a processor."""

    id: Annotated[str, doc("Index or UUID of the device.")]
    memory_bytes: Annotated[Whole, doc("Its memory.")] = None
    mig_profile: Annotated[Text, doc("MIG profile, for example 1g.10gb; empty: a whole device.")] = None


class LoadTableRow(Value, kw_only=True, frozen=True):
    """One row of the load table (method A1)."""

    batch_size: Annotated[int, doc("Batch size that was measured.")]
    images_per_second: Annotated[Decimal, doc("Images per second of one service, a decimal string.")] = None
    max_services: Annotated[Whole, doc("Services that run at once before the total falls.")] = None


class SpotCheckStatus(Value, kw_only=True, frozen=True):
    """One measurement of the drift sentinel."""

    time: Annotated[Time, doc("When it ended.")] = None
    images_per_second: Annotated[Decimal, doc("One service at the best batch size, a decimal string.")] = None


class Processor(Value, kw_only=True, frozen=True):
    """One kind of accelerator on this node."""

    kind: Annotated[str, doc("Kind of accelerator: cpu or an extended resource.")]
    product: Annotated[Text, doc("Product name.")] = None
    driver: Annotated[Text, doc("Driver version.")] = None
    runtime_image: Annotated[Text, doc("Image that was measured with.")] = None
    devices: Annotated[tuple[Device, ...], doc("Its devices.", extra_json_schema=keyed("id"))] = ()
    load_table: Annotated[
        tuple[LoadTableRow, ...], doc("What was measured per batch size.", extra_json_schema=keyed("batchSize"))
    ] = ()
    capacity_images_per_second: Annotated[
        Decimal, doc("Best images per second of the load table, of one device; a decimal string.")
    ] = None
    slots: Annotated[
        Whole,
        doc("How many of the kind the node has for pods (its allocatable): devices, partitions, or shares of either."),
    ] = None
    slots_per_device: Annotated[Whole, doc("More than 1 where pods take turns on a device (time-slicing).")] = None
    scaling: Annotated[
        Decimal,
        doc("What each device does while all of them work, as a share of what one does alone; a decimal string."),
    ] = None
    node_images_per_second: Annotated[
        Decimal, doc("Images per second of all the node's devices together, a decimal string.")
    ] = None
    spot_checks: Annotated[
        tuple[SpotCheckStatus, ...],
        doc(
            "Cheap measurements in idle times since the benchmark, at most 12, oldest first.", extra_json_schema=ATOMIC
        ),
    ] = ()
    benchmarked_time: Annotated[Time, doc("When it was measured.")] = None
    reason: Annotated[Text, doc("State of the measurement in CamelCase, for example AwaitingBenchmark.")] = None
    message: Annotated[Text, doc("The same as a sentence that says what to do.")] = None
    node_class: Annotated[
        Text, doc("Digest of what nodes of its class have in common: instance type, product, size, image.")
    ] = None
    estimated_from: Annotated[
        Text, doc("Node of the same class whose measurement counts until this one is measured itself.")
    ] = None
    failures: Annotated[Whole, doc("Benchmarks that failed in a row.")] = None
    retry_time: Annotated[Time, doc("When the next one is due after a failure.")] = None
    benchmarked_as: Annotated[Text, doc("Digest of hardware, driver, image and request that were measured.")] = None


class ProfileSummary(Value, kw_only=True, frozen=True):
    """Scalars for the printer columns."""

    kinds: Annotated[Text, doc("Kinds of accelerators on the node.")] = None
    products: Annotated[Text, doc("Their products.")] = None
    images_per_second: Annotated[Text, doc("Their capacities.")] = None


class AcceleratorProfileStatus(Value, kw_only=True, frozen=True):
    """What was measured on the node. Written by the operator only."""

    observed_generation: Annotated[
        Whole, doc("metadata.generation that this status was decided from; -1: none yet.")
    ] = None
    conditions: Conditions = ()
    processors: Annotated[
        tuple[Processor, ...], doc("Kinds of accelerators on the node.", extra_json_schema=keyed("kind"))
    ] = ()
    summary: Annotated[ProfileSummary | None, doc("Scalars for the printer columns.")] = None
