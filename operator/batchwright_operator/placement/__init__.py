"""Placement of gated model pods (methods A4 and A5), in kube-scheduler's words.

The `reconciler` observes a `snapshot`; a `cycle` decides on it, gated pod by gated pod: `placed_pods` and `demand` read
the pod and its deployment, `filter` rejects nodes, `scoring` rates the others, `candidate_heap` picks the best,
`receipts` explains the pick, `binding` patches the pod, and `usage` counts it for the next one. Everything but the
reconciler and its memory of `refusals` is pure. A pod is bound by its affinity: the cluster's scheduler still checks
the fit. Never evicts a pod.
"""
