"""`kubectl batchwright`, the kubectl plugin: why a pod is where it is, what the operator would decide, how busy the
processors are.

It decides nothing of its own: it fills the operator's cache from the API server and calls the operator's own
reconcilers. It writes what a user asks for by name: a new benchmark (`bench --again`), a restart, a rollback.
"""
