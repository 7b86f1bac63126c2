"""The children of an InferenceJob: deterministic, and fresh dicts on every call; docs/design/0001 names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from batchwright_operator.api.inference_job import InferenceJob
from batchwright_operator.kube.metadata import annotation
from batchwright_operator.kube.objects import CONFIG_MAP, JOB, NETWORK_POLICY, SECRET, Raw
from batchwright_operator.rendering.mounts import mount, secret_volume, volume_name
from batchwright_operator.rendering.objects import (
    LABEL_MANAGED_BY,
    LABEL_NAME,
    MANAGED_BY,
    child,
    control_ingress,
    headless_host,
    secret_data,
)
from batchwright_operator.rendering.pod_parts import (
    PROGRAM,
    container,
    fetch_env,
    identity_env,
    merged_env,
    plain,
    pod_options,
    variables,
)
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import JobConfig, TrustedServer
from batchwright_worker.api.names import (
    CLIENT_TLS_DIR,
    CONFIG_DIR,
    CONTROL_PORT,
    DATA_DIR,
    EXIT_PERMANENT,
    FUNCTIONS_DIR,
    GROUP,
    LABEL_JOB,
    LABEL_STEP,
    SECRETS_DIR,
    TLS_DIR,
    TOKEN_FILE,
    child_name,
    claim_of,
    digest_name,
)

Step = Literal["plan", "run", "commit"]
RUNNER: Final = "runner"
"""Name of the container of plan, run and commit pods."""
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
ANNOTATION_SETTINGS: Final = f"{GROUP}/wish"
"""On child Jobs: suspend, parallelism and deadline as the user had set them when they were last applied to the Job."""
NOT_OF_THE_RUNNER: Final = frozenset(
    {"suspend", "parallelism", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "runner"}
)
"""Parts of the spec that may change while runners run, and that they do not read."""
STEP_RETRIES: Final = 3
TERMINATION_GRACE_S: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredSettings:
    """Settings that a child Job should have now. `deadline_s` counts from the Job's own start."""

    suspend: bool
    parallelism: int
    deadline_s: int | None = None
    stated_deadline_s: int | None = None
    """The deadline as the user stated it: `deadline_s` moves with time, and that alone changes nothing."""

    def render(self) -> str:
        """The value of ANNOTATION_SETTINGS."""
        text = f"suspend={str(self.suspend).lower()},parallelism={self.parallelism}"
        return text if self.stated_deadline_s is None else f"{text},deadline={self.stated_deadline_s}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """How a ModelDeployment is served by TLS: the Secret that may have the CA, and the name in the certificate. Where
    it asks clients for certificates, `client_secret` has the one that runners show; None: nobody has named it."""

    secret: str
    server_name: str
    asks_clients: bool = False
    client_secret: str | None = None


def was_applied_suspended(child_job: Raw) -> bool:
    """Whether its user wanted it suspended when the settings of this child Job were last applied to it."""
    return annotation(child_job, ANNOTATION_SETTINGS).startswith("suspend=true")


Certificates = Mapping[str, Certificate]
"""By ModelDeployment, of those that are served by TLS."""
_CA: Final = "ca.crt"
_PAIR: Final = ("tls.crt", "tls.key")


def job_labels(job: InferenceJob) -> dict[str, str]:
    """Labels of every child of this InferenceJob."""
    return {LABEL_NAME: job.name, LABEL_MANAGED_BY: MANAGED_BY, LABEL_JOB: job.name}


def step_name(job: InferenceJob, step: Step) -> str:
    """Name of a child Job."""
    return child_name(job.name, step)


def job_config(job: InferenceJob, certificates: Certificates) -> JobConfig:
    """What the runners read. `runner.cpuWorkers` is theirs, the rest of `runner` is in the pod already."""
    spec = {name: value for name, value in job.raw["spec"].items() if name not in NOT_OF_THE_RUNNER}
    if job.spec.runner.cpu_workers is not None:
        spec["runner"] = {"cpuWorkers": job.spec.runner.cpu_workers}
    return JobConfig(
        name=job.name,
        namespace=job.namespace,
        uid=job.uid,
        spec=spec,
        endpoints={name: headless_host(name, job.namespace) for name in job.deployments()},
        tls={
            name: TrustedServer(
                server_name=each.server_name,
                ca_file=f"{TLS_DIR}/{name}/{_CA}",
                cert_file=f"{CLIENT_TLS_DIR}/{name}/{_PAIR[0]}" if each.client_secret else "",
                key_file=f"{CLIENT_TLS_DIR}/{name}/{_PAIR[1]}" if each.client_secret else "",
            )
            for name, each in certificates.items()
        },
    )


def config_map(job: InferenceJob, certificates: Certificates) -> Raw:
    """job.json."""
    data = {"job.json": msgspec.json.encode(job_config(job, certificates), order="sorted").decode()}
    return child(CONFIG_MAP, job.raw, child_name(job.name, "job"), job_labels(job), data=data)


def control_name(job: InferenceJob) -> str:
    """Name of the Secret; not `-control`, on which those of ModelDeployments end."""
    return child_name(job.name, "job", "token")


def old_control_name(job: InferenceJob) -> str:
    """Its name before 0.1.0, which that of a ModelDeployment may have."""
    return child_name(job.name, "job", "control")


def control_secret(job: InferenceJob, token: str, name: str = "") -> Raw:
    """The token of the runners' control ports."""
    return child(SECRET, job.raw, name or control_name(job), job_labels(job), type="Opaque", data=secret_data(token))


def policy_name(job: InferenceJob) -> str:
    """Name of the NetworkPolicy; that of a ModelDeployment has the ModelDeployment's own name."""
    return digest_name(job.name, "runners")


def network_policy(job: InferenceJob, operator_namespace: str) -> Raw:
    """Runners: nobody reaches them but the operator their control port."""
    spec = {
        "podSelector": {"matchLabels": {LABEL_JOB: job.name}},
        "policyTypes": ["Ingress"],
        "ingress": [control_ingress(operator_namespace)],
    }
    return child(NETWORK_POLICY, job.raw, policy_name(job), job_labels(job), spec=spec)


def step_job(  # noqa: PLR0913 - a Job is made of all of them
    job: InferenceJob,
    step: Step,
    *,
    desired: DesiredSettings,
    shards: int,
    certificates: Certificates,
    settings: Settings,
    image: str | None = None,
) -> Raw:
    """A child Job: one pod for plan and commit, one per shard for run, which alone calls models. `image`: to run, where
    it is given already."""
    certificates = certificates if step == "run" else {}
    labels = job_labels(job) | {LABEL_STEP: step}
    spec: Raw = {
        "suspend": desired.suspend,
        "template": _template(job, labels, certificates, _runner(job, step, certificates, settings, image)),
        "podFailurePolicy": {"rules": _failure_rules("FailIndex" if step == "run" else "FailJob")},
        **_size(job, step, desired, shards),
    }
    if desired.deadline_s is not None:
        spec["activeDeadlineSeconds"] = desired.deadline_s
    queue = job.identity.labels.get(LABEL_QUEUE)
    if queue:  # Kueue admits the Job, and admission is what resumes it
        labels = labels | {LABEL_QUEUE: queue}
        spec["suspend"] = True
    notes = {ANNOTATION_SETTINGS: desired.render()}
    return child(JOB, job.raw, step_name(job, step), labels, annotations=notes, spec=spec)


def _size(job: InferenceJob, step: Step, desired: DesiredSettings, shards: int) -> Raw:
    """One failed shard is enough to leave the data set incomplete: no further index is started then."""
    if step != "run":
        return {"completions": 1, "parallelism": 1, "backoffLimit": STEP_RETRIES}
    return {
        "completionMode": "Indexed",
        "completions": shards,
        "parallelism": desired.parallelism,
        "backoffLimitPerIndex": job.spec.backoff_limit_per_shard,
        "maxFailedIndexes": 0,
    }


def _failure_rules(action: str) -> list[Raw]:
    """A disrupted pod does not count; a failure that no retry can cure is final; all others are retried."""
    codes = {"containerName": RUNNER, "operator": "In", "values": [EXIT_PERMANENT]}
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": action, "onExitCodes": codes},
    ]


def _template(job: InferenceJob, labels: Mapping[str, str], certificates: Certificates, runner: Raw) -> Raw:
    options = job.spec.runner.pod
    metadata: Raw = {"labels": {**options.labels, **labels}}
    if options.annotations:
        metadata["annotations"] = dict(options.annotations)
    body: Raw = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": TERMINATION_GRACE_S,
        **pod_options(options),
        "containers": [runner],
        "volumes": [*_volumes(job, certificates), *plain(options.volumes)],
    }
    if options.node_selector:
        body["nodeSelector"] = dict(options.node_selector)
    if options.tolerations:
        body["tolerations"] = plain(options.tolerations)
    return {"metadata": metadata, "spec": body}


def _runner(job: InferenceJob, step: Step, certificates: Certificates, settings: Settings, image: str | None) -> Raw:
    runner = job.spec.runner
    resources = settings.runner_resources.as_dict()
    if runner.resources is not None:
        given: dict[str, Raw] = {"requests": {**runner.resources.requests}, "limits": {**runner.resources.limits}}
        resources = {name: values for name, values in given.items() if values}
    return container(
        RUNNER,
        (runner.image or settings.runner_image or settings.worker_image) if image is None else image,
        settings,
        command=[PROGRAM, "runner", step],
        env=merged_env(variables(settings.otlp_env), plain(runner.env), identity_env(), fetch_env(settings)),
        ports=[{"name": "control", "containerPort": CONTROL_PORT, "protocol": "TCP"}],
        resources=resources,
        volumeMounts=[*_mounts(job, certificates), *plain(runner.pod.volume_mounts)],
    )


def data_claims(job: InferenceJob) -> dict[str, bool]:
    """PersistentVolumeClaims of input and output; False: only read."""
    source, target = claim_of(job.spec.input.uri), claim_of(job.spec.output.uri)
    claims = {source: False} if source else {}
    return claims | ({target: True} if target else {})


def _secrets(job: InferenceJob) -> list[str]:
    references = (job.spec.input.secret_ref, job.spec.output.secret_ref)
    return list(dict.fromkeys(each.name for each in references if each is not None))


def _mounts(job: InferenceJob, certificates: Certificates) -> list[Raw]:
    return [
        mount("config", CONFIG_DIR),
        mount("control", TOKEN_FILE.rsplit("/", 1)[0]),
        mount("tmp", "/tmp", read_only=False),  # noqa: S108 - the pod's own emptyDir
        *(
            mount(volume_name("pvc", claim), f"{DATA_DIR}/pvc/{claim}", read_only=not written)
            for claim, written in data_claims(job).items()
        ),
        *(mount(volume_name("functions", name), f"{FUNCTIONS_DIR}/{name}") for name in job.spec.runner.config_maps),
        *(mount(volume_name("secret", name), f"{SECRETS_DIR}/{name}") for name in _secrets(job)),
        *(mount(volume_name("tls", name), f"{TLS_DIR}/{name}") for name in certificates),
        *(
            mount(volume_name("client-tls", name), f"{CLIENT_TLS_DIR}/{name}")
            for name, each in certificates.items()
            if each.client_secret
        ),
    ]


def _volumes(job: InferenceJob, certificates: Certificates) -> list[Raw]:
    config, control = child_name(job.name, "job"), control_name(job)
    claims = {volume_name("pvc", claim): claim for claim in data_claims(job)}
    functions = {volume_name("functions", name): name for name in job.spec.runner.config_maps}
    secrets = {volume_name("secret", name): name for name in _secrets(job)}
    return [
        {"name": "config", "configMap": {"name": config}},
        {"name": "control", "secret": {"secretName": control}},
        {"name": "tmp", "emptyDir": {}},
        *({"name": volume, "persistentVolumeClaim": {"claimName": name}} for volume, name in claims.items()),
        *({"name": volume, "configMap": {"name": name}} for volume, name in functions.items()),
        *({"name": volume, "secret": {"secretName": name}} for volume, name in secrets.items()),
        # The CA alone, not the key; a certificate by a CA that everybody trusts has none.
        *(
            {
                "name": volume_name("tls", name),
                "secret": {"secretName": each.secret, "items": [{"key": _CA, "path": _CA}], "optional": True},
            }
            for name, each in certificates.items()
        ),
        *(
            secret_volume(volume_name("client-tls", name), each.client_secret, *_PAIR)
            for name, each in certificates.items()
            if each.client_secret
        ),
    ]
