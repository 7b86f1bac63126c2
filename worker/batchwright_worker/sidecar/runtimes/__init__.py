"""The sidecar's side of a runtime: the client over the pod's socket. Never schedules."""
