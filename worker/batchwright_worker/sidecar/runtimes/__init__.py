"""The sidecar's clients of its runtimes: our own process over the pod's socket (`client`), or the user's own server by
HTTP and gRPC (`external`). Both are the engine's `Runtime`. Never schedules, never loads a model into this process.
"""
