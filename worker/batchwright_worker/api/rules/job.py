"""Rules between the fields of an InferenceJob, and of the pod fields that both kinds have; see `manifest_rules`."""

from __future__ import annotations

import re
from typing import Final

from batchwright_worker.api.fields import EnvVar, PodOptions, Volume, VolumeMount
from batchwright_worker.api.job import CpuTask, InferenceJob, InferenceJobSpec, Input, Output, Task
from batchwright_worker.api.rules.model import distinct, local_or, path_rules
from batchwright_worker.api.rules.rule import Rule

INPUT_URI: Final = r"^((https|s3|gs|az)://[^/]+/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?)$"
OUTPUT_URI: Final = r"^((s3|gs|az)://[^/]+/.+|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[^/].*)$"
FUNCTION: Final = (
    r"^([A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_.]*|[a-z][a-z0-9]*([-_][a-z0-9]+)*)$"
)
LABEL: Final = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
RESERVED_PATHS: Final = ("/etc/batchwright", "/run/batchwright", "/var/lib/batchwright")
PREFIX: Final = "batchwright.dev/"
SOURCES: Final = (
    "config_map", "secret", "empty_dir", "persistent_volume_claim", "projected",
    "csi", "ephemeral", "downward_api", "image", "nfs",
)  # fmt: skip
_JOBS_ARE_MADE: Final = "cannot be changed, because the Jobs of its runners are made with it once"
_NEW_JOB: Final = "delete the job and apply it again, or apply the new version under another name"


def _immutable(field: str) -> Rule:
    return Rule(
        on=InferenceJobSpec,
        at=field,
        cel="self == oldSelf",
        holds=lambda _value: True,
        wrong="cannot be changed, because the results so far belong to it",
        remedy=_NEW_JOB,
    )


def earlier_only(tasks: tuple[Task, ...]) -> bool:
    """Every dependency stands before the task that has it."""
    names = [task.name for task in tasks]
    return all(set(task.depends_on) <= set(names[:index]) for index, task in enumerate(tasks))


def _same_place(spec: InferenceJobSpec) -> bool:
    return spec.input.uri.rstrip("/") == spec.output.uri.rstrip("/")


RESERVED_TASKS: Final = ("id", "error", "item")
"""What records, error records and the inputs of functions call their own fields."""
OF_RECORDS: Final = ("jsonl", "csv", "parquet", "arrow", "webdataset")
"""Input formats whose items have fields."""


def _columns_apart(spec: InferenceJobSpec) -> bool:
    """No field that is passed through has the name of another column."""
    taken = {"id", *(task.name for task in spec.tasks)}
    return not taken & set(spec.output.pass_through)


_JOB = (
    Rule(
        on=InferenceJob,
        cel=f"self.metadata.name.matches('{LABEL}')",
        holds=lambda job: re.match(LABEL, job.name) is not None,
        wrong="metadata.name: it becomes the value of a label",
        remedy="write at most 63 lower-case letters, digits and -",
    ),
    _immutable("input"),
    _immutable("output"),
    _immutable("tasks"),
    Rule(
        on=InferenceJobSpec,
        names="runner",
        # Over the spec, since a rule of the field itself is not asked where it comes or goes.
        cel="has(self.runner) == has(oldSelf.runner) && (!has(self.runner) || self.runner == oldSelf.runner)",
        holds=lambda _spec: True,
        wrong=_JOBS_ARE_MADE,
        remedy=_NEW_JOB,
    ),
    Rule(
        on=InferenceJobSpec,
        at="backoff_limit_per_shard",
        cel="self == oldSelf",
        holds=lambda _value: True,
        wrong=_JOBS_ARE_MADE,
        remedy=_NEW_JOB,
    ),
    Rule(
        on=InferenceJobSpec,
        at="tasks",
        cel="self.all(t, self.exists_one(u, u.name == t.name))",
        holds=lambda tasks: distinct([task.name for task in tasks]),
        wrong="two tasks have one name",
        remedy="give each a name of its own",
    ),
    Rule(
        on=InferenceJobSpec,
        at="tasks",
        cel="self.all(i, t, !has(t.dependsOn) || t.dependsOn.all(d, self.exists(j, u, j < i && u.name == d)))",
        holds=earlier_only,
        wrong="names a task that does not stand earlier in the list",
        remedy="name earlier tasks only, and move a task below those it depends on",
    ),
    Rule(
        on=InferenceJobSpec,
        names="output.uri",
        cel="self.input.uri != self.output.uri && self.input.uri + '/' != self.output.uri"
        " && self.input.uri != self.output.uri + '/'",
        holds=lambda spec: not _same_place(spec),
        wrong="the input itself",
        remedy="write another directory, for example beside the input",
    ),
    Rule(
        on=Task,
        cel="has(self.cpu) != has(self.model)",
        holds=lambda task: (task.cpu is not None) != (task.model is not None),
        wrong="exactly one of cpu and model",
        remedy="write cpu: {function: module:callable} or model: {deployment: NAME, model: NAME}",
    ),
    Rule(
        on=Task,
        at="name",
        cel="!(self in ['id', 'error', 'item'])",
        holds=lambda name: name not in RESERVED_TASKS,
        wrong="records and functions have a field of that name already",
        remedy="name the task otherwise than id, error or item",
    ),
    Rule(
        on=InferenceJobSpec,
        names="output.passThrough",
        cel=f"!has(self.output.passThrough) || self.input.format in {list(OF_RECORDS)}",
        holds=lambda spec: not spec.output.pass_through or spec.input.format in OF_RECORDS,
        wrong="items of this input.format have no fields",
        remedy=f"leave passThrough out, or write input.format {', '.join(OF_RECORDS)}",
    ),
    Rule(
        on=InferenceJobSpec,
        names="output.passThrough",
        cel="!has(self.output.passThrough) || self.output.passThrough.all(c, c != 'id' && "
        "!self.tasks.exists(t, t.name == c))",
        holds=_columns_apart,
        wrong="a column of that name is there already: id, or a task's",
        remedy="name the task otherwise, or rename the field in a CPU task",
    ),
    Rule(
        on=Output,
        names="compression",
        cel="!has(self.compression) || self.compression == 'none' || self.format == 'jsonl'",
        holds=lambda output: output.compression == "none" or output.format == "jsonl",
        wrong="only jsonl parts are compressed as a whole",
        remedy="leave compression out: parquet compresses by itself",
    ),
    Rule(
        on=CpuTask,
        at="function",
        cel=f"self.matches(r'{FUNCTION}')",
        holds=lambda function: re.match(FUNCTION, function) is not None,
        wrong="neither module:callable nor the name of a built-in",
        remedy="write for example my_steps:crop (a ConfigMap in runner.configMaps with the entry my_steps.py), or a "
        "built-in such as decode",
    ),
    Rule(
        on=Input,
        at="uri",
        cel=f"self.matches(r'{INPUT_URI}')",
        holds=lambda uri: local_or(INPUT_URI, uri),
        wrong="not an address that pods can read",
        remedy="write pvc://CLAIM/PATH, https://HOST/FILE, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or "
        "az://CONTAINER/PREFIX; file:// works only with batchwright-worker run",
    ),
    Rule(
        on=Output,
        at="uri",
        cel=f"self.matches(r'{OUTPUT_URI}')",
        holds=lambda uri: local_or(OUTPUT_URI, uri),
        wrong="not a directory that pods can write",
        remedy="write pvc://CLAIM/PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX; file:// works "
        "only with batchwright-worker run",
    ),
    *path_rules(Input),
    *path_rules(Output),
)

_POD = (
    Rule(
        on=EnvVar,
        names="value",
        cel="!(has(self.value) && has(self.valueFrom))",
        holds=lambda env: env.value is None or env.value_from is None,
        wrong="set beside valueFrom",
        remedy="write one of value and valueFrom",
    ),
    Rule(
        on=Volume,
        cel="[has(self.configMap), has(self.secret), has(self.emptyDir), has(self.persistentVolumeClaim), "
        "has(self.projected), has(self.csi), has(self.ephemeral), has(self.downwardAPI), has(self.image), "
        "has(self.nfs)].filter(s, s).size() == 1",
        holds=lambda volume: sum(getattr(volume, source) is not None for source in SOURCES) == 1,
        wrong="exactly one source",
        remedy="write for example {name: cache, emptyDir: {}} or {name: data, persistentVolumeClaim: {claimName: ..}}",
    ),
    Rule(
        on=VolumeMount,
        at="mount_path",
        cel="self.startsWith('/') && !self.matches(r'^/(etc|run|var/lib)/batchwright')",
        holds=lambda path: path.startswith("/") and not path.startswith(RESERVED_PATHS),
        wrong="relative, or where Batchwright has its own volumes",
        remedy="write an absolute path outside /etc/batchwright, /run/batchwright and /var/lib/batchwright",
    ),
    Rule(
        on=PodOptions,
        names="volumeMounts",
        cel="!has(self.volumeMounts) || self.volumeMounts.all(m, "
        "has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
        holds=lambda pod: {mount.name for mount in pod.volume_mounts} <= {volume.name for volume in pod.volumes},
        wrong="no such volume in pod.volumes",
        remedy="add the volume to pod.volumes or correct the name",
    ),
    *(
        Rule(
            on=PodOptions,
            at=name,
            cel=f"self.all(k, !k.startsWith('{PREFIX}'))",
            holds=lambda entries: not any(key.startswith(PREFIX) for key in entries),
            wrong=f"{PREFIX} is Batchwright's own prefix",
            remedy="use a prefix of yours",
        )
        for name in ("labels", "annotations")
    ),
)

RULES: Final = (*_JOB, *_POD)
