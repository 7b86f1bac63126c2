"""Telemetry (method A3): utilization of processors into the live state, from our node agents or a Prometheus, and from
the sidecars for emulated accelerators.

It never decides a placement and never writes to the API server. A value that is not known stays unknown: no sample,
never a zero.
"""
