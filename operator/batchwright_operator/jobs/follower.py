"""Follows the state of every running runner pod, and keeps the final states of finished shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from batchwright_operator.jobs.children import RUNNER
from batchwright_operator.jobs.runner_pods import succeeded_state
from batchwright_operator.kube.metadata import label
from batchwright_operator.kube.objects import INFERENCE_JOB, JOB, POD, Raw
from batchwright_operator.pods.lifecycle import is_running
from batchwright_operator.pods.state_follower import (
    FollowedPod,
    PollPolicy,
    SessionFactory,
    StateFollower,
    control_address,
)
from batchwright_operator.reconcile.interfaces import Queue, StoreView
from batchwright_operator.reconcile.keys import INFERENCE_JOB_RECONCILER, key_of
from batchwright_operator.reconcile.live_state import LiveState
from batchwright_operator.settings import Settings
from batchwright_worker.api.messages import RunnerState
from batchwright_worker.api.names import LABEL_STEP


class RunnerFollower:
    """The `Background` that keeps `live.runners` and `live.terminations` true; an InferenceJob is reconciled when a
    runner of it has news, at most once per `job_status_min_interval_seconds`."""

    def __init__(self, settings: Settings, live: LiveState, session_factory: SessionFactory) -> None:
        interval_s = settings.job_status_min_interval_seconds
        self._live = live
        self._read: set[str] = set()
        self._follower = StateFollower(
            targets=self._targets,
            message=RunnerState,
            states=live.runners,
            session_factory=session_factory,
            policy=PollPolicy(poll_s=min(1.0, interval_s), notify_s=interval_s),
            now=live.now,
        )

    async def run(self, store: StoreView, queue: Queue) -> None:
        """Runs until cancelled; survives its own errors."""
        await self._follower.run(store, queue)

    def _targets(self, store: StoreView) -> Iterator[FollowedPod]:
        found = [(job, _runner_pods(store, job)) for job in store.all(INFERENCE_JOB)]
        self._keep_terminations(found)
        for job, pods in found:
            yield from runner_targets(job, pods, self._live.control_token)

    def _keep_terminations(self, found: list[tuple[Raw, list[Raw]]]) -> None:
        """Remember the final state of every shard that succeeded; forget the jobs that are gone."""
        for gone in self._live.terminations.keys() - {job["metadata"]["uid"] for job, _ in found}:
            del self._live.terminations[gone]
        self._read &= {str(pod["metadata"]["uid"]) for _, pods in found for pod in pods}
        for job, pods in found:
            for pod in pods:
                uid = str(pod["metadata"]["uid"])
                if uid in self._read or (state := succeeded_state(pod)) is None:
                    continue
                self._read.add(uid)
                self._live.terminations.setdefault(job["metadata"]["uid"], {})[state.shard] = state


def _runner_pods(store: StoreView, job: Raw) -> list[Raw]:
    """The pods that work for this very InferenceJob: a deleted one of the same name may have left some."""
    children = store.owned(JOB, job["metadata"]["uid"])
    runs = [child for child in children if label(child, LABEL_STEP) == "run"]
    return [pod for run in runs for pod in store.owned(POD, run["metadata"]["uid"])]


def runner_targets(job: Raw, pods: list[Raw], token: Callable[[str], str]) -> Iterator[FollowedPod]:
    """Every pod whose runner runs; `token` maps the uid of an InferenceJob to its control token."""
    uid, key = job["metadata"]["uid"], key_of(INFERENCE_JOB_RECONCILER, job)
    for pod in pods:
        address = control_address(pod)
        if address is not None and is_running(pod, RUNNER):
            yield FollowedPod(uid=pod["metadata"]["uid"], address=address, token=token(uid), key=key)
