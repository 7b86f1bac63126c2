"""How long an object may stand still before that counts as Stalled, as for a Deployment; pure.

Most of what keeps pods from running mends itself: a quota is raised, a registry comes back, an autoscaler adds a node.
kstatus, by which Flux waits, takes Stalled for failed and gives up at once; Argo CD shows the application as degraded.
"""

from __future__ import annotations

from typing import Final

from batchwright_operator.kube.conditions import find
from batchwright_operator.kube.objects import Raw
from batchwright_operator.kube.times import unix

PROGRESS_DEADLINE_S: Final = 600.0
"""As of a Deployment that does not say; a ModelDeployment says."""
DEADLINE_EXCEEDED: Final = "ProgressDeadlineExceeded"


def time_left_s(old: Raw, *, generation: int, now: float, deadline_s: float, progressed: float = 0.0) -> float:
    """Seconds until an object that is not what its spec says counts as Stalled; 0 or less: it does.

    `old` is the status that is written: its condition Reconciling says since when it is on its way. `progressed` is
    when something last moved, as far as others know it (Unix seconds).
    """
    reconciling = find(old.get("conditions"), "Reconciling")
    same = reconciling.get("status") == "True" and reconciling.get("observedGeneration") == generation
    since = unix(reconciling.get("lastTransitionTime")) if same else None
    # A clock that was set back puts the beginning into the future: the deadline is then no longer than it was.
    return min(deadline_s, max(now if since is None else since, progressed) + deadline_s - now)
