"""What of a Triton model configuration cannot be kept here, each with a sentence; pure.

`refusals` would change answers or their order, so that the model is not served; `notes` change speed alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from batchwright_worker.oip import inference_pb2 as pb

BACKENDS: Final = {"onnxruntime": "onnx", "pytorch": "torchscript", "python": "triton-python"}
"""Backend -> format of the artifact."""
MOST_ROWS: Final = 4096
"""Of a batch, by the ModelDeployment's schema."""
PLATFORMS: Final = {"onnxruntime_onnx": "onnxruntime", "pytorch_libtorch": "pytorch"}
_WHOLE_PARTS: Final = {
    "ensemble_scheduling": "ensembles are not served; call the models one after the other, or make them tasks of an "
    "InferenceJob",
    "sequence_batching": "sequences are not served; rows are independent here, so keep the state in the client",
    "batch_input": "inputs made of a batch are not served; send every input with the request",
    "batch_output": "outputs that are scattered by an input are not served; let each output have a row for each row",
    "cc_model_filenames": "a file for each compute capability is not chosen; name one file in default_model_filename",
    "model_operations": "libraries of custom operations are not loaded; make an image with a script (format python)",
    "model_repository_agents": "repository agents do not run; put the files as they are to be into the repository",
}
_INPUT_FLAGS: Final = {
    "allow_ragged_batch": "ragged batches are not made; pad the rows (batching.padding), or leave it out",
    "optional": "every input is needed here; give the model a default in the file, or send it always",
    "is_shape_tensor": "shape tensors are TensorRT's; export the model as ONNX",
    "is_non_linear_format_io": "non-linear formats are TensorRT's; export the model as ONNX",
}
_SPEED_ALONE: Final = {
    "optimization": "how a backend is optimised is not set here",
    "response_cache": "there is no response cache",
    "metric_tags": "tags are not added to metrics",
    "model_metrics": "the histograms of metrics have buckets of their own",
}


def refusals(config: pb.ModelConfig, backend: str, kind: str) -> Iterator[str]:
    """`backend` as `backend_of` says; `kind`: the accelerator that it is to be served on. Each sentence begins with the
    field's name."""
    if backend not in BACKENDS and not _is_set(config, "ensemble_scheduling"):
        yield (
            f"backend {backend!r} is not served; there are {', '.join(BACKENDS)}: export the model as ONNX, or front a "
            "Triton server of your own (protocol: open-inference)"
        )
    if PLATFORMS.get(config.platform, backend) != backend:
        yield f"platform {config.platform!r}: it is not one of backend {backend!r}; leave one of both out"
    for name, why in _WHOLE_PARTS.items():
        if _is_set(config, name):
            yield f"{name}: {why}"
    if config.max_batch_size < 0:
        yield f"max_batch_size {config.max_batch_size}: write 0 for a model without a batch dimension, or the most rows"
    if config.model_transaction_policy.decoupled:
        yield "model_transaction_policy.decoupled: one response is given for each request; return them in one tensor"
    yield from _backend_refusals(config, backend)
    for given in config.input:
        yield from _tensor_refusals("input", given)
    for made in config.output:
        yield from _tensor_refusals("output", made)
    yield from _batching_refusals(config.dynamic_batching)
    yield from _group_refusals(config, kind)
    for warmup in config.model_warmup:
        for name, data in warmup.inputs.items():
            if data.WhichOneof("input_data_type") == "input_data_file":
                yield f"model_warmup.inputs.{name}: files are not read; write warmup.inputs of the ModelDeployment"


def _backend_refusals(config: pb.ModelConfig, backend: str) -> Iterator[str]:
    if backend in ("pytorch", "python") and not (config.input and config.output):
        yield "input and output: the file does not say what they are; write both into config.pbtxt"
    if backend == "pytorch" and len(config.input) > 1 and not all("__" in each.name for each in config.input):
        yield "input: TorchScript's inputs go by their places; name them INPUT__0, INPUT__1, .."
    if backend == "pytorch" and config.runtime:
        yield f"runtime {config.runtime!r}: of PyTorch's models TorchScript is served (model.pt)"
    if backend == "python" and "EXECUTION_ENV_PATH" in config.parameters:
        yield "parameters.EXECUTION_ENV_PATH: environments are images here; put the packages into the runtime's image"


def notes(config: pb.ModelConfig, backend: str) -> Iterator[str]:
    """What has another effect on speed than under Triton."""
    if config.parameters and backend != "python":
        yield f"parameters: {', '.join(sorted(config.parameters))} are not used"
    if config.max_batch_size > MOST_ROWS:
        yield f"max_batch_size: a run has at most {MOST_ROWS} rows; larger requests are cut"
    for name, why in _SPEED_ALONE.items():
        if _is_set(config, name):
            yield f"{name}: {why}"
    if any(group.count > 1 for group in config.instance_group):
        yield "instance_group.count: a model is loaded once per device, whose batches follow each other"
    if any(group.HasField("rate_limiter") for group in config.instance_group):
        yield "instance_group.rate_limiter: models share a device by their queues"
    if len(config.model_warmup) > 1:
        yield "model_warmup: the first sample is used"
    if config.dynamic_batching.max_queue_delay_microseconds % 1000 > 0:
        yield "dynamic_batching.max_queue_delay_microseconds: whole milliseconds, rounded down"


def _tensor_refusals(what: str, tensor: Any) -> Iterator[str]:
    where = f"{what} {tensor.name!r}"
    if tensor.data_type == pb.TYPE_INVALID:
        yield f"{where}: data_type is missing; write it, as TYPE_FP32"
    if not tensor.dims:
        yield f"{where}: dims is missing; write it, without the batch dimension where max_batch_size is not 0"
    if tensor.HasField("reshape") and list(tensor.reshape.shape) != list(tensor.dims):
        yield f"{where}: reshape is not done; export the model with the dims that clients send"
    for flag, why in _INPUT_FLAGS.items():
        if getattr(tensor, flag, False):
            yield f"{where}: {flag}: {why}"


def _batching_refusals(batching: pb.ModelDynamicBatching) -> Iterator[str]:
    where = "dynamic_batching"
    if batching.preserve_ordering:
        yield f"{where}.preserve_ordering: answers come as they are ready; send one request after the other"
    if batching.priority_queue_policy:
        yield f"{where}.priority_queue_policy: all priorities share one queue and its bound; use default_queue_policy"
    if batching.default_queue_policy.default_timeout_microseconds:
        yield (
            f"{where}.default_queue_policy.default_timeout_microseconds: requests say their own timeout; or write "
            "targets.latencyMilliseconds of the ModelDeployment"
        )
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and default != levels:
        yield (
            f"{where}.default_priority_level {default}: requests without a priority go last here; write {levels}, or "
            "let the others say theirs"
        )


def _group_refusals(config: pb.ModelConfig, kind: str) -> Iterator[str]:
    for group in config.instance_group:
        if group.passive:
            yield "instance_group.passive: every model here takes requests; leave it out of the repository"
        if group.kind == pb.ModelInstanceGroup.KIND_GPU and kind == "cpu":
            yield "instance_group.kind KIND_GPU: it is served on the CPU; say accelerator: nvidia.com/gpu, or KIND_CPU"
        if group.kind == pb.ModelInstanceGroup.KIND_CPU and kind != "cpu":
            yield f"instance_group.kind KIND_CPU: it is served on {kind}; leave accelerator out, or write KIND_AUTO"


def _is_set(config: pb.ModelConfig, name: str) -> bool:
    field = config.DESCRIPTOR.fields_by_name[name]
    return config.HasField(name) if field.has_presence else bool(getattr(config, name))
