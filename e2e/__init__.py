"""What runs Batchwright on a real Kubernetes: the embedded cluster, the demo, the benchmarks."""
