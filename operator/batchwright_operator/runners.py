"""Follows the state of every running runner pod, and keeps what finished shards said last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from batchwright_operator.actions import INFERENCE_JOB, POD, Key, Raw
from batchwright_operator.domain import Queue, StoreView
from batchwright_operator.job_facts import succeeded_state
from batchwright_operator.live import Live
from batchwright_operator.rendering_job import RUNNER
from batchwright_operator.settings import Settings
from batchwright_operator.sidecars import (
    Pace,
    SessionFactory,
    StateFollower,
    Target,
    control_address,
    running_container,
)
from batchwright_worker.contract import LABEL_JOB, LABEL_STEP, RunnerState

INFERENCE_JOB_DOMAIN: Final = "inferencejob"


class RunnerFollower:
    """The `Background` that keeps `live.runners` and `live.terminations` true; an InferenceJob is reconciled when a
    runner of it has news, at most once per `job_status_min_interval_seconds`."""

    def __init__(self, settings: Settings, live: Live, session_factory: SessionFactory) -> None:
        interval_s = settings.job_status_min_interval_seconds
        self._live = live
        self._read: set[str] = set()
        self._follower = StateFollower(
            targets=self._targets,
            message=RunnerState,
            states=live.runners,
            session_factory=session_factory,
            pace=Pace(poll_s=min(1.0, interval_s), notify_s=interval_s),
        )

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled; survives its own errors."""
        await self._follower.run(store, queue)

    def _targets(self, store: StoreView) -> Iterator[Target]:
        jobs = {str(job["metadata"]["uid"]): job for job in store.all(INFERENCE_JOB)}
        pods = store.labelled(POD, LABEL_STEP, "run")
        self._keep_terminations(pods, jobs, store)
        return runner_targets(store, pods, self._live.control_token)

    def _keep_terminations(self, pods: list[Raw], jobs: dict[str, Raw], store: StoreView) -> None:
        """Remember the final state of every shard that succeeded; forget the jobs that are gone."""
        for gone in self._live.terminations.keys() - jobs.keys():
            del self._live.terminations[gone]
        present = {str(pod["metadata"]["uid"]) for pod in pods}
        self._read &= present
        for pod in pods:
            uid = str(pod["metadata"]["uid"])
            if uid in self._read or (state := succeeded_state(pod)) is None:
                continue
            self._read.add(uid)
            if (job := job_of(store, pod)) is not None:
                self._live.terminations.setdefault(job["metadata"]["uid"], {})[state.shard] = state


def runner_targets(store: StoreView, pods: list[Raw], token: Callable[[str], str]) -> Iterator[Target]:
    """Every pod of a run Job whose runner runs; `token` maps the uid of an InferenceJob to its control token."""
    for pod in pods:
        address = control_address(pod)
        if address is None or not running_container(pod, RUNNER) or (job := job_of(store, pod)) is None:
            continue
        metadata = job["metadata"]
        key = Key(domain=INFERENCE_JOB_DOMAIN, namespace=metadata["namespace"], name=metadata["name"])
        yield Target(uid=pod["metadata"]["uid"], address=address, token=token(metadata["uid"]), key=key)


def job_of(store: StoreView, pod: Raw) -> Raw | None:
    """The InferenceJob that a pod works for."""
    metadata = pod["metadata"]
    return store.get(INFERENCE_JOB, metadata["namespace"], str((metadata.get("labels") or {}).get(LABEL_JOB, "")))
