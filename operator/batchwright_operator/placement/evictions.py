"""What a cluster autoscaler is told of a model pod, so that its node can be emptied; pure.

cluster-autoscaler leaves a node alone that has a pod with an emptyDir or a hostPath. Ours hold nothing that a new pod
would not make anew: sockets, temporary files, weights that were fetched. Those of the user's own may, and are not named
here. On the pod itself, not in its template, which would replace every pod once.
"""

from __future__ import annotations

from typing import Final

from batchwright_operator.kube.objects import Raw

SAFE_VOLUMES: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
SAFE: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
OURS: Final = frozenset({"ipc", "tmp", "fetched", "weights-cache"})
"""The emptyDirs of `deployments/volumes`, and the cache of weights where it is a folder of the node."""


def eviction_annotations(pod: Raw) -> dict[str, str]:
    """The annotation to add; none where the user has said something."""
    given = pod["metadata"].get("annotations") or {}
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    names = sorted(each["name"] for each in volumes if each["name"] in OURS and each.keys() & {"emptyDir", "hostPath"})
    return {} if not names or SAFE in given or SAFE_VOLUMES in given else {SAFE_VOLUMES: ",".join(names)}
