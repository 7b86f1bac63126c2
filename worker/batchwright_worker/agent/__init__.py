"""The node agent (method A3): utilization of this node's processors as Prometheus metrics."""
