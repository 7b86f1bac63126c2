"""The operator as a process: registry of reconcilers, leader election, kopf's watch, metrics server, control key, logs.

It wires the machinery and the reconcilers together and holds no rule of theirs: it knows reconcilers by the paths of
the registry only, and it writes nothing to the API server but its Lease and its control key.
"""
