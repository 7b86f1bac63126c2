"""Sidecar and runtime talk here: control messages over a unix socket, tensors in shared memory files."""
