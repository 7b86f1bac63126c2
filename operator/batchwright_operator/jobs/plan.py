"""What the children of an InferenceJob should be, and the actions that make them so; pure. Knows nothing of `status`,
which knows nothing of it: `phase` stands below both.

plan -> run (one index per shard) -> commit. Jobs are created once, since nearly all of a Job's spec is immutable;
afterwards only what the user may change is patched, and only when the user changed it (ANNOTATION_SETTINGS has what was
applied last), so that Kueue or an administrator may suspend and resume them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from batchwright_operator.jobs.children import (
    ANNOTATION_SETTINGS,
    DesiredSettings,
    Step,
    config_map,
    control_secret,
    network_policy,
    old_control_name,
    policy_name,
    step_job,
)
from batchwright_operator.jobs.facts import ChildJob, JobFacts
from batchwright_operator.jobs.phase import STEP_OF, JobPhase, deadline_of, resumes
from batchwright_operator.kube.metadata import annotation, is_leaving
from batchwright_operator.kube.objects import CONFIG_MAP, JOB, NETWORK_POLICY, SECRET, Raw
from batchwright_operator.reconcile.decisions import Action, Apply, Create, Delete, Patch
from batchwright_operator.settings import Settings


def actions(facts: JobFacts, phase: JobPhase, settings: Settings, *, token: str, now: float) -> tuple[Action, ...]:
    """What the phase asks for."""
    if phase.ended:
        return tuple(_stop(facts))
    job = facts.job
    wanted: list[Action] = [
        Apply(resource=CONFIG_MAP, body=config_map(job, facts.certificates)),
        Apply(resource=SECRET, body=control_secret(job, token)),
        Apply(resource=NETWORK_POLICY, body=network_policy(job, settings.operator_namespace)),
        *_of_old_names(facts, token),
    ]
    step = STEP_OF.get(phase.name)
    if step == "plan" and facts.plan is not None and facts.plan.complete:
        # The plan is done, but its result is lost with its pod: the same plan is made again.
        return (*wanted, Delete.of(JOB, facts.plan.raw))
    for name, child in facts.children().items():
        if not child.ended:
            wanted += _patch_changed(child, _desired(facts, name, child, now))
    if step is not None and step not in facts.children():
        desired = _desired(facts, step, None, now)
        body = step_job(
            job,
            step,
            desired=desired,
            shards=facts.shards or 1,
            certificates=facts.certificates,
            settings=settings,
            # Also if the operator has been upgraded since: another version may write plans and parts in another way.
            image=facts.image,
        )
        wanted.append(Create(resource=JOB, body=body))
    return tuple(wanted)


def _of_old_names(facts: JobFacts, token: str) -> Iterator[Action]:
    """Jobs from before 0.1.0 mount a Secret under another name; a NetworkPolicy of another name is not needed."""
    name = old_control_name(facts.job)
    if any(_mounts(child, name) for child in facts.children().values() if not child.ended):
        yield Apply(resource=SECRET, body=control_secret(facts.job, token, name))
    for each in facts.policies:
        if each["metadata"]["name"] != policy_name(facts.job) and not is_leaving(each):
            yield Delete.of(NETWORK_POLICY, each)


def _mounts(child: ChildJob, secret: str) -> bool:
    volumes = child.raw["spec"]["template"]["spec"].get("volumes") or ()
    return any((each.get("secret") or {}).get("secretName") == secret for each in volumes)


def _desired(facts: JobFacts, step: Step, child: ChildJob | None, now: float) -> DesiredSettings:
    spec = facts.job.spec
    stated = spec.active_deadline_seconds
    seconds = None
    if stated is not None:
        deadline = deadline_of(facts) or now + stated
        begun = child.start if child is not None and child.start is not None and not resumes(facts) else now
        seconds = max(1, ceil(deadline - begun))
    return DesiredSettings(
        suspend=spec.suspend,
        parallelism=min(spec.parallelism, facts.shards or 1) if step == "run" else 1,
        deadline_s=seconds,
        stated_deadline_s=stated,
    )


def _patch_changed(child: ChildJob, desired: DesiredSettings) -> list[Action]:
    """Patch the settings that the user changed since they were last applied. The Job's own spec is no measure of that:
    Kueue suspends and resumes it, and an administrator may."""
    before, after = _parts(_last_applied(child)), _parts(desired.render())
    values: dict[str, Any] = {
        "suspend": desired.suspend,
        "parallelism": desired.parallelism,
        "deadline": desired.deadline_s,
    }
    names = {"suspend": "suspend", "parallelism": "parallelism", "deadline": "activeDeadlineSeconds"}
    changed = [part for part in names if before.get(part) != after.get(part)]
    if not changed:
        return []
    if "suspend" in changed and desired.deadline_s is not None:
        changed.append("deadline")  # batch/v1 counts from the Job's start, which a resumption sets again
    return [_patch(child, desired.render(), {names[part]: values[part] for part in changed})]


def _last_applied(child: ChildJob) -> str:
    return annotation(child.raw, ANNOTATION_SETTINGS)


def _parts(settings: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in settings.split(",") if part)}


def _patch(child: ChildJob, settings: str, spec: Raw) -> Patch:
    metadata = child.raw["metadata"]
    return Patch(
        resource=JOB,
        namespace=metadata["namespace"],
        name=metadata["name"],
        patch={"metadata": {"annotations": {ANNOTATION_SETTINGS: settings}}, "spec": spec},
        style="merge",
        uid=metadata["uid"],
    )


def _stop(facts: JobFacts) -> Iterator[Action]:
    """Suspending a Job deletes its pods; the Job itself stays, with its conditions, for whoever wants to look."""
    for child in facts.children().values():
        if not child.ended and _last_applied(child) != "stopped":
            yield _patch(child, "stopped", {"suspend": True})
