"""The wire between sidecar and runtime: control messages over a unix socket, tensors in shared memory files.

Formats and layouts alone. Never connects, decides or loads: `sidecar/runtimes` is the client, `runtime` the server.
"""
