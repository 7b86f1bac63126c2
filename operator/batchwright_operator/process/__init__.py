"""The operator as a process: registry, election, kopf's watch, metrics server, logs. Wires the reconcilers and holds
no rule of theirs."""
