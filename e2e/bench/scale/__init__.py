"""The operator on a thousand simulated nodes: rates beside the cluster's own, silence, writes, memory, recovery."""
