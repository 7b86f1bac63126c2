"""The nodes' processors: what there is, their benchmarks, and the AcceleratorProfile that records both. Never places
a pod."""
