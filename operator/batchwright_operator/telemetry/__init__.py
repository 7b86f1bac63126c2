"""Utilization of processors: from our agents, exporters or Prometheus, into the live state. Never decides a
placement."""
