"""The commands `serve`, `run` and `replay`: a cluster's sidecar, runtimes and runner on this machine, from the same
manifests. Nothing here is used in a pod."""
