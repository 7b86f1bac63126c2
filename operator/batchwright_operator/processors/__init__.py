"""Processors of the nodes (method A1): kinds, benchmarks, and the AcceleratorProfile that records both.

`nodes` and `processor` read nodes and profiles; `benchmark_jobs` renders a benchmark, `benchmark_outcome` reads how it
ended; `plan` decides per node when one runs, `status` renders the profile's status, `reconciler` watches. Everything
but the reconciler is pure. Never places a pod.
"""
