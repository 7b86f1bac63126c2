"""Kubernetes as any client sees it: objects, metadata, times, conditions, quantities, selectors, and the API client
with its credentials and circuit breaker.

It knows none of our kinds' rules and no reconciler, and it keeps no state of the cluster: what it reads goes to the
caller. `kube/client` is the only module of ours that speaks HTTP to the API server (kopf does too).
"""
