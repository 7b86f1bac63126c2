"""Placement of gated model pods (methods A4 and A5), in kube-scheduler's words.

`placed_pods` and `demand` read pods and deployments, `filter` rejects nodes, `scoring` rates the others,
`candidate_heap` picks the best, `receipts` explains the pick, `binding` patches the pod. `cycle` does all of this for
every gated pod over the `snapshot` that the `reconciler` takes; `usage` counts what it has placed. Everything but the
reconciler's memory of refusals is pure. A pod is bound by its affinity alone: the cluster's scheduler still checks the
fit, and nothing that runs is ever evicted.
"""
