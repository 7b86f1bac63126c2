"""Which pods end by themselves, and when benchmarks of ours ran: what is no lasting state of a processor. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from batchwright_operator.kube.metadata import annotation, is_leaving, label
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix
from batchwright_operator.pods.lifecycle import container_statuses, is_over
from batchwright_operator.telemetry.lasting import Place
from batchwright_worker.api.names import ANNOTATION_KIND, LABEL_BENCHMARK

ENDED = ""
"""In place of a uid: the pods that ended since the sample before."""


def known(pods: Mapping[str, tuple[float, float]], store: Mapping[str, Raw]) -> dict[str, tuple[float, float]]:
    """Those that the API server knows under their uid. Others (static pods) have no say here, and last."""
    return {uid: part for uid, part in pods.items() if uid == ENDED or uid in store}


def ends(uid: str, store: Mapping[str, Raw], now: float, *, lasting_s: float) -> bool:
    """Whether a pod that was known has ended or will end by itself: a benchmark, or a pod that is to complete and has
    not yet run for `lasting_s` seconds. What has run for so long may well go on for as long again."""
    if uid == ENDED:
        return True
    pod = store.get(uid)
    if pod is None or is_over(pod) or is_leaving(pod) or label(pod, LABEL_BENCHMARK) == "true":
        return True
    if (pod.get("spec") or {}).get("restartPolicy", "Always") == "Always":
        return False
    started = unix((pod.get("status") or {}).get("startTime"))
    return started is None or now - started < lasting_s


def benchmarked_until(benchmark_pods: Iterable[Raw], now: float) -> dict[Place, float]:
    """(node, kind) -> until when a benchmark of ours ran there; `now` where one runs."""
    found: dict[Place, float] = {}
    for pod in benchmark_pods:
        place = (str((pod.get("spec") or {}).get("nodeName") or ""), annotation(pod, ANNOTATION_KIND))
        until = _ran_until(pod, now)
        if place[0] and until is not None:
            found[place] = max(until, found.get(place, until))
    return found


def _ran_until(pod: Raw, now: float) -> float | None:
    if not is_over(pod):
        return now if (pod.get("status") or {}).get("phase") == "Running" else None
    states = [(each.get("state") or {}).get("terminated") or {} for each in container_statuses(pod)]
    # The API server's times are whole seconds, cut.
    ended = [at + 1.0 for each in states if (at := unix(each.get("finishedAt"))) is not None]
    return max(ended, default=None)
