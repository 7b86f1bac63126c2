"""Nodes of the embedded cluster: kubelet and container runtime in a cgroup and a network namespace of their own."""
