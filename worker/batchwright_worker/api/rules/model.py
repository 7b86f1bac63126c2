"""Rules between the fields of a model and its artifacts; see `manifest_rules`."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from batchwright_worker.api.formats import FILE_OPTIONAL, SCRIPTED, TRITON_REPOSITORY, UNDECLARING, WITHOUT_FILE, listed
from batchwright_worker.api.model import Artifact, Batching, Model, Script, Tensor, WarmUp
from batchwright_worker.api.names import KIND_CPU, KIND_EMULATED
from batchwright_worker.api.rules.rule import Rule, or_default

_SCHEMES: Final = ("https", "s3", "gs", "az", "hf", "oci", "pvc")
_REGISTRY: Final = "models:"
_STARTS: Final = "self.uri.startsWith('{}:')".format
_OF_FOLDERS: Final = ("pvc", "hf", "oci", "models")
"""Schemes whose addresses need no slash behind to name a folder."""


def no_parent_steps(uri: str) -> bool:
    """No `..` between slashes: a path may not leave its volume."""
    return ".." not in uri.split("/")


def local_or(pattern: str, uri: str) -> bool:
    """Local mode reads file:///PATH beside what a cluster reads."""
    return uri.startswith("file:///") or re.match(pattern, uri) is not None


_CONTAINS: Final = "self.contains('{}')".format


def _written_plainly(signs: tuple[str, ...], uri: str) -> bool:
    return not (uri.startswith("pvc:") and any(sign in uri for sign in signs))


def path_rules(struct: type) -> tuple[Rule, ...]:
    """Of a `uri` that may be a path on a volume. One or two `contains` a rule, because the API server bounds what it
    may cost, and of a text made lower case it would not know how long it is."""
    hidden = (("%2e", "%2E"), ("%2f", "%2F"), ("%00",))
    return (
        Rule(
            on=struct,
            at="uri",
            cel="!self.contains('/../') && !self.endsWith('/..')",
            holds=no_parent_steps,
            wrong="the path has a .. in it",
            remedy="write the path from the root of the volume, without ..",
        ),
        *(
            Rule(
                on=struct,
                at="uri",
                cel=f"!self.startsWith('pvc:') || !({' || '.join(map(_CONTAINS, signs))})",
                holds=partial(_written_plainly, signs),
                wrong=f"the path has {' or '.join(signs)} in it",
                remedy="write dots and slashes as they are",
            )
            for signs in hidden
        ),
    )


def _is_address(uri: str) -> bool:
    """SCHEME://HOST/PATH or models:/NAME..; local mode reads file:///PATH, too."""
    registered = uri.split("/", 3)
    if registered[0] == _REGISTRY:
        return len(registered) in (2, 3) and registered[1] != ""
    scheme, _, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    return uri.startswith("file:///") or (scheme in _SCHEMES and bool(host and path))


def distinct(names: list[str]) -> bool:
    """No name twice."""
    return len(set(names)) == len(names)


def kind_of(artifact: str) -> str:
    """CEL for the kind of accelerator of an artifact, which need not say it."""
    return f"(has({artifact}.accelerator) ? {artifact}.accelerator : '{KIND_CPU}')"


def kinds_of(model: str) -> str:
    """CEL for the kinds of accelerators of a model's artifacts."""
    return f"{model}.artifacts.map(x, {kind_of('x')})"


def _among(formats: tuple[str, ...]) -> str:
    """CEL that follows a format: it is one of these."""
    one, *more = formats
    return f"in {list(formats)}" if more else f"== '{one}'"


def _padding_applies(model: Model) -> bool:
    padding = model.batching.padding
    if padding is None or not model.inputs:
        return True
    return any(len(each.shape) > padding.dimension and each.shape[padding.dimension] == -1 for each in model.inputs)


_ARTIFACT = (
    Rule(
        on=Artifact,
        at="uri",
        # `matches` would cost more than the API server allows: by the length of the text times that of the pattern.
        cel=f"[self.split('/', 4)].exists(p, p[0] == '{_REGISTRY}' ? size(p) in [2, 3] && p[1] != '' : size(p) == 4 && "
        f"p[0] in {[f'{scheme}:' for scheme in _SCHEMES]} && p[1] == '' && p[2] != '' && p[3] != '')",
        holds=_is_address,
        wrong="not an address that pods can read",
        remedy="write pvc://CLAIM/PATH, https://HOST/PATH, s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/PATH, "
        "hf://ORG/MODEL@REVISION, models:/NAME/VERSION or oci://HOST/REPOSITORY@sha256:../PATH; file:// works only "
        "with batchwright-worker serve",
    ),
    *path_rules(Artifact),
    Rule(
        on=Artifact,
        names="emulated",
        cel="(self.format == 'emulated') == has(self.emulated)",
        holds=lambda artifact: (artifact.format == "emulated") == (artifact.emulated is not None),
        wrong="it goes with format emulated, and with no other",
        remedy="write emulated: {fixedMicroseconds: 10000, perRowMicroseconds: 2000} with format: emulated; "
        "remove emulated with any other format",
    ),
    Rule(
        on=Artifact,
        names="uri",
        cel=f"self.format {_among(WITHOUT_FILE)} ? !has(self.uri) && !has(self.sha256)"
        f" : has(self.uri) || self.format {_among(FILE_OPTIONAL)}",
        holds=lambda artifact: (
            artifact.uri is None and artifact.sha256 is None
            if artifact.format in WITHOUT_FILE
            else artifact.uri is not None or artifact.format in FILE_OPTIONAL
        ),
        wrong=f"needed with every format but {listed(WITHOUT_FILE)} (which has neither uri nor sha256) and "
        f"{listed(FILE_OPTIONAL)}",
        remedy="write uri: pvc://CLAIM/PATH, https://.., s3://.., gs://.. or oci://.., or remove uri and sha256 with "
        f"format: {listed(WITHOUT_FILE, 'or')}",
    ),
    Rule(
        on=Artifact,
        names="uri",
        cel=f"self.format != '{TRITON_REPOSITORY}' || !has(self.uri) || self.uri.endsWith('/') || "
        f"self.uri.contains('/?') || {' || '.join(map(_STARTS, _OF_FOLDERS))}",
        holds=lambda artifact: (
            artifact.format != TRITON_REPOSITORY
            or artifact.uri is None
            or artifact.uri.endswith("/")
            or "/?" in artifact.uri
            or artifact.uri.partition(":")[0] in (*_OF_FOLDERS, "file")
        ),
        wrong="a Triton model repository is a folder, and this address names a file",
        remedy="write a / behind it",
    ),
    Rule(
        on=Artifact,
        names="format",
        cel=f"!has(self.accelerator) || self.accelerator != '{KIND_EMULATED}' || self.format == 'emulated'",
        holds=lambda artifact: artifact.accelerator != KIND_EMULATED or artifact.format == "emulated",
        wrong="the emulated accelerator runs emulated models only",
        remedy=f"write format: emulated with accelerator: {KIND_EMULATED}, or another accelerator",
    ),
    Rule(
        on=Artifact,
        names="script",
        cel=f"(self.format {_among(SCRIPTED)}) == has(self.script)",
        holds=lambda artifact: (artifact.format in SCRIPTED) == (artifact.script is not None),
        wrong=f"needed with formats {listed(SCRIPTED)}, unused with any other",
        remedy="write script: {module: my_package.my_model} or script: {configMapKeyRef: {name: .., key: ..}}, "
        "or remove it",
    ),
    Rule(
        on=Artifact,
        names="secretRef",
        cel="!has(self.secretRef) || (has(self.uri) && !self.uri.startsWith('pvc://'))",
        holds=lambda artifact: artifact.secret_ref is None or not (artifact.uri or "pvc://").startswith("pvc://"),
        wrong="nothing is fetched here that needs credentials",
        remedy="remove secretRef; it goes with https://, s3://, gs://, az://, hf:// and oci:// only",
    ),
    Rule(
        on=Artifact,
        names="script.file",
        cel="!has(self.script) || !has(self.script.file) || "
        "(has(self.uri) && (self.uri.endsWith('/') || self.uri.contains('/?')))",
        holds=lambda artifact: (
            artifact.script is None
            or artifact.script.file is None
            or (artifact.uri is not None and (artifact.uri.endswith("/") or "/?" in artifact.uri))
        ),
        wrong="it is a file of the folder at uri, and uri names no folder",
        remedy="write uri: s3://BUCKET/FOLDER/ (ending in /), or take the script from configMapKeyRef or module",
    ),
    Rule(
        on=Script,
        cel="[has(self.configMapKeyRef), has(self.module), has(self.file)].exists_one(given, given)",
        holds=lambda script: [script.config_map_key_ref, script.module, script.file].count(None) == 2,
        wrong="exactly one of configMapKeyRef, module and file",
        remedy="write {module: my_package.my_model}, {configMapKeyRef: {name: my-scripts, key: model.py}} or "
        "{file: model.py}",
    ),
)

_MIN_SIZE = or_default("self.?minSize", Batching, "min_size")
_MAX_SIZE = or_default("self.?maxSize", Batching, "max_size")
_STEP = or_default("self.?step", Batching, "step")

_MODEL = (
    Rule(
        on=Tensor,
        at="shape",
        cel="self.all(d, d != 0)",
        holds=lambda shape: 0 not in shape,
        wrong="a dimension is 0",
        remedy="write its length, or -1 where it varies; leave the batch dimension out",
    ),
    Rule(
        on=Batching,
        names="maxSize",
        cel=f"{_MIN_SIZE} <= {_MAX_SIZE}",
        holds=lambda batching: batching.min_size <= batching.max_size,
        wrong="smaller than minSize",
        remedy="write minSize <= maxSize",
    ),
    Rule(
        on=Batching,
        names="initialSize",
        cel=f"!has(self.initialSize) || ({_MIN_SIZE} <= self.initialSize && self.initialSize <= {_MAX_SIZE})",
        holds=lambda batching: (
            batching.initial_size is None or batching.min_size <= batching.initial_size <= batching.max_size
        ),
        wrong="it is outside minSize to maxSize",
        remedy="write minSize <= initialSize <= maxSize, or leave it out to have it predicted",
    ),
    Rule(
        on=Batching,
        names="step",
        cel=f"{_STEP} == 1 || {_STEP} <= {_MAX_SIZE} - {_MIN_SIZE}",
        holds=lambda batching: batching.step == 1 or batching.step <= batching.max_size - batching.min_size,
        wrong="larger than maxSize - minSize, so that no second size could be reached",
        remedy="write a smaller step or a wider range",
    ),
    Rule(
        on=Batching,
        names="maxQueueLength",
        cel=f"{or_default('self.?maxQueueLength', Batching, 'max_queue_length')} >= {_MAX_SIZE}",
        holds=lambda batching: batching.max_queue_length >= batching.max_size,
        wrong="shorter than one batch of maxSize",
        remedy="write at least maxSize",
    ),
    Rule(
        on=Model,
        names="batching.maxQueueDelayMilliseconds",
        cel="!has(self.targets) || !has(self.targets.latencyMilliseconds) || "
        f"{or_default('self.?batching.?maxQueueDelayMilliseconds', Batching, 'max_queue_delay_milliseconds')}"
        " < self.targets.latencyMilliseconds",
        holds=lambda model: (
            model.targets.latency_milliseconds is None
            or model.batching.max_queue_delay_milliseconds < model.targets.latency_milliseconds
        ),
        wrong="as long as targets.latencyMilliseconds, so that no request could be in time",
        remedy="write less than the latency target; 0 is nearly always best",
    ),
    Rule(
        on=Model,
        names="batching.windowMilliseconds",
        cel="!has(self.targets) || !has(self.targets.latencyMilliseconds) || "
        "self.targets.latencyMilliseconds <= 10 * "
        f"{or_default('self.?batching.?windowMilliseconds', Batching, 'window_milliseconds')}",
        holds=lambda model: (
            model.targets.latency_milliseconds is None
            or model.targets.latency_milliseconds <= 10 * model.batching.window_milliseconds
        ),
        wrong="less than a tenth of targets.latencyMilliseconds, so that a window would see hardly an answer",
        remedy="write a longer window, best as long as the latency target",
    ),
    Rule(
        on=Model,
        names="batching.padding.dimension",
        cel="!has(self.batching) || !has(self.batching.padding) || !has(self.inputs) || self.inputs.exists(i, "
        "size(i.shape) > self.batching.padding.dimension && i.shape[self.batching.padding.dimension] == -1)",
        holds=_padding_applies,
        wrong="no input varies in it",
        remedy="name a dimension whose length is -1 in an input's shape; dimensions count from 0 without the batch",
    ),
    Rule(
        on=Batching,
        names="padding",
        cel="!has(self.padding) || !has(self.mode) || self.mode == 'Rows'",
        holds=lambda batching: batching.padding is None or batching.mode != "Whole",
        wrong="nothing is padded with mode Whole",
        remedy="remove padding, or write mode: Rows",
    ),
    Rule(
        on=WarmUp,
        names="inputs",
        cel="!has(self.mode) || self.mode == 'Auto' || !has(self.inputs) || size(self.inputs) == 0",
        holds=lambda warmup: warmup.mode == "Auto" or not warmup.inputs,
        wrong="unused with mode Skip",
        remedy="remove inputs, or write mode: Auto",
    ),
    Rule(
        on=Model,
        names="batching.mode",
        cel="!self.artifacts.exists(a, a.format == 'emulated') || !has(self.batching) || "
        "!has(self.batching.mode) || self.batching.mode == 'Rows'",
        holds=lambda model: (
            model.batching.mode != "Whole" or all(artifact.format != "emulated" for artifact in model.artifacts)
        ),
        wrong="an emulated model is made of rows",
        remedy="remove batching.mode",
    ),
    Rule(
        on=Model,
        names="inputs",
        cel=f"!self.artifacts.exists(a, a.format {_among(UNDECLARING)}) || "
        "(has(self.inputs) && size(self.inputs) > 0 && has(self.outputs) && size(self.outputs) > 0)",
        holds=lambda model: (
            not any(artifact.format in UNDECLARING for artifact in model.artifacts)
            or bool(model.inputs and model.outputs)
        ),
        wrong=f"a {listed(UNDECLARING, 'or')} artifact does not tell inputs and outputs",
        remedy="write inputs and outputs as [{name: x, datatype: FP32, shape: [3, 224, 224]}], per row",
    ),
    *(
        Rule(
            on=Model,
            at=name,
            cel="",
            holds=lambda tensors: distinct([tensor.name for tensor in tensors]),
            wrong="two tensors have one name",
            remedy="keep one, or write the name that the model gives the other",
        )
        for name in ("inputs", "outputs")
    ),
    Rule(
        on=Model,
        names="artifacts",
        # `in [x]` and not `== x`, of which the API server thinks that it compares the longest texts there may be.
        cel=f"self.artifacts.all(a, self.artifacts.exists_one(b, {kind_of('a')} in [{kind_of('b')}]))",
        holds=lambda model: distinct([artifact.accelerator for artifact in model.artifacts]),
        wrong="two artifacts for one kind of accelerator",
        remedy="keep one per accelerator, and say accelerator: on every one that is not for cpu",
    ),
)


RULES: Final = (*_ARTIFACT, *_MODEL)
