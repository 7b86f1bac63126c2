"""The job as a runner sees it: the parsed manifest, its DAG, and where input and output lie."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from batchwright_worker.api import names as contract
from batchwright_worker.api.job import InferenceJobSpec, Input, Output, Task, parse_job_spec
from batchwright_worker.api.messages import JobConfig, TrustedServer
from batchwright_worker.artifacts.digest import file_sha256
from batchwright_worker.runner.cpu import functions
from batchwright_worker.runner.errors import StepFailed
from batchwright_worker.runner.graph import dag
from batchwright_worker.runner.graph.dag import Dag
from batchwright_worker.runner.storage.locations import Location, locate
from batchwright_worker.runner.storage.plan_file import CodeDigests, Selection

NO_LIMIT: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`folders` are put on sys.path for functions; `endpoints` and `tls` as in JobConfig."""

    name: str
    namespace: str
    spec: InferenceJobSpec
    dag: Dag
    endpoints: Mapping[str, str]
    tls: Mapping[str, TrustedServer] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    selection: Selection | None = None
    """None: every item of the input."""
    uid: str = ""
    """Of the InferenceJob."""

    @property
    def identity(self) -> str:
        """Digest of what is asked for: input, tasks with their arguments, form of the output, which items; not how long
        tasks may take, which may be raised to repeat what failed."""
        output = self.spec.output
        tasks = tuple(_without_time_limit(task) for task in self.spec.tasks)
        parts: tuple[object, ...] = (
            self.spec.input, tasks, output.format, output.compression, output.pass_through,
        )  # fmt: skip
        if self.selection is not None:
            parts = (*parts, self.selection)
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()

    @property
    def retries(self) -> bool:
        """Only the failed items of a complete output are run, again."""
        return self.spec.output.mode == "RetryFailed"

    @property
    def most_failed(self) -> int | None:
        """How many items may fail: `maxFailedItems`; of those that failed before all may fail again."""
        return NO_LIMIT if self.retries else self.spec.max_failed_items

    @property
    def suffix(self) -> str:
        """Of the names of parts."""
        output = self.spec.output
        return output.format + {"none": "", "gzip": ".gz", "zstd": ".zst"}[output.compression]

    def code(self) -> CodeDigests:
        """What the functions are made of at present, and the files that their arguments name."""
        tasks = [(task.name, task.cpu) for task in self.spec.tasks if task.cpu is not None]
        files = sorted({path for _, cpu in tasks for path in functions.files_in(cpu.args)})
        return CodeDigests(
            functions={name: functions.code_digest(cpu.function) for name, cpu in tasks},
            files={path: file_sha256(Path(path)) for path in files},
        )

    def input(self) -> Location:
        """Where the data set lies. Raises StepFailed(InvalidUri)."""
        return _located(self.spec.input)

    def output(self) -> Location:
        """Where the results go. Raises StepFailed(InvalidUri)."""
        return _located(self.spec.output)

    @property
    def cpu_workers(self) -> int:
        """Processes for CPU tasks: as written, else the container's CPU request rounded up."""
        if self.spec.runner.cpu_workers is not None:
            return self.spec.runner.cpu_workers
        millis = int(os.environ.get(contract.ENV_CPU_MILLIS) or 0)
        return max(1, math.ceil(millis / 1000)) if millis else max(1, len(os.sched_getaffinity(0)))


def _without_time_limit(task: Task) -> Task:
    if task.cpu is None or task.cpu.timeout_seconds is None:
        return task
    return msgspec.structs.replace(task, cpu=msgspec.structs.replace(task.cpu, timeout_seconds=None))


def _located(place: Input | Output) -> Location:
    return locate(place.uri, place.secret_ref.name if place.secret_ref is not None else None)


def load_job(path: Path) -> Job:
    """The job of a JobConfig file. Raises StepFailed(InvalidJob | InvalidTask)."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=JobConfig)
    except FileNotFoundError as error:
        raise StepFailed("InvalidJob", f"{path} does not exist: --job wants the job's configuration") from error
    except msgspec.MsgspecError as error:
        raise StepFailed("InvalidJob", f"{path} is no job configuration: {error}") from error
    return make_job(config, folders=tuple(functions.mounted_folders()))


def make_job(config: JobConfig, *, folders: tuple[str, ...] = ()) -> Job:
    """Parse the spec and check the DAG. Raises StepFailed(InvalidJob | InvalidTask)."""
    try:
        spec = parse_job_spec(config.spec)
    except msgspec.ValidationError as error:
        raise StepFailed("InvalidJob", f"spec: {error}") from error
    graph = _graph(spec)
    functions.add_paths(folders)
    return Job(
        name=config.name,
        namespace=config.namespace,
        uid=config.uid,
        spec=spec,
        dag=graph,
        endpoints=config.endpoints,
        tls=config.tls,
        folders=folders,
    )


def _graph(spec: InferenceJobSpec) -> Dag:
    nodes = []
    for task in spec.tasks:
        if (task.cpu is None) == (task.model is None):
            raise StepFailed("InvalidTask", f"task {task.name!r}: set exactly one of cpu and model")
        if task.model is not None and len(task.depends_on) > 1:
            message = (
                f"task {task.name!r}: a model task takes its rows from one task, dependsOn names "
                f"{len(task.depends_on)}: let a CPU task join them"
            )
            raise StepFailed("InvalidTask", message)
        kind: dag.Kind = "CPU" if task.cpu is not None else "Model"
        nodes.append(dag.Node(name=task.name, kind=kind, depends_on=tuple(task.depends_on)))
    try:
        return dag.build(nodes)
    except dag.InvalidDag as error:
        raise StepFailed("InvalidTask", str(error)) from error
