"""What each pod uses of the CPU processor, from its cgroup: so that the operator can tell what lasts from what ends.

The cgroup of all pods keeps the CPU time of pods that have ended, theirs do not: the difference of its growth and that
of the pods that are there is what ended pods used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from batchwright_worker.agent.cgroups import Accounts, each_pod
from batchwright_worker.agent.readings import ENDED, PodShare, share

SMALLEST: Final = 0.01
"""A pod below this share of CPU and of memory is not told: a node may have a hundred that do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodUse:
    """CPU seconds used so far by all pods there ever were, and by each that is there; bytes by each."""

    all_cpu_s: float
    cpu_s: Mapping[str, float]
    memory_bytes: Mapping[str, int]


def pod_use(pods: Accounts | None) -> PodUse | None:
    """The use as of now; None where it cannot be read. A pod that ends meanwhile is left out."""
    if pods is None:
        return None
    cpu_s: dict[str, float] = {}
    memory: dict[str, int] = {}
    try:
        all_cpu_s = pods.used_cpu_s()
        for uid, each in each_pod(pods):
            try:
                cpu_s[uid], memory[uid] = each.used_cpu_s(), each.used_memory_bytes()
            except (OSError, ValueError, KeyError):
                cpu_s.pop(uid, None)
    except (OSError, ValueError, KeyError):
        return None
    return PodUse(all_cpu_s=all_cpu_s, cpu_s=cpu_s, memory_bytes=memory)


def pod_shares(
    before: PodUse | None, after: PodUse | None, *, cpu_s: float, memory_bytes: int
) -> dict[str, PodShare] | None:
    """uid -> its share of `cpu_s` CPU seconds, which could be used between the two, and of the memory; None where
    either was not read. What ended pods used is under ENDED."""
    if before is None or after is None:
        return None
    spent = {uid: max(0.0, used - before.cpu_s.get(uid, 0.0)) for uid, used in after.cpu_s.items()}
    shares = {
        uid: PodShare(
            utilization=share(used, cpu_s), memory_utilization=share(after.memory_bytes.get(uid, 0), memory_bytes)
        )
        for uid, used in spent.items()
    }
    told = {uid: each for uid, each in shares.items() if max(each.utilization, each.memory_utilization) >= SMALLEST}
    ended_s = after.all_cpu_s - before.all_cpu_s - sum(spent.values())
    # Told even where it is nothing: so it is known that shares are told here.
    return {ENDED: PodShare(utilization=share(ended_s, cpu_s), memory_utilization=0.0), **told}
