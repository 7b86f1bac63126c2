"""Placement of gated model pods (methods A4 and A5), in kube-scheduler's words.

The `reconciler` brings a `cluster_state` up to date; a `cycle` decides on it, gated pod by gated pod: `placed_pods` and
`demand` read the pod and its deployment; a `candidate_pool`, which pods that ask for the same share, has what `filter`
lets through in the `ranking` that `scoring` makes, from a `scoreboard` that all demands for one kind share; `pools`
keeps them over cycles; `receipts` explains the pick, `binding` patches the pod, and `usage` counts it for the next one.
Everything but what the reconciler remembers (state, pools, `refusals`) is pure. A pod is bound by its affinity: the
cluster's scheduler still checks the fit. Never evicts a pod.
"""
