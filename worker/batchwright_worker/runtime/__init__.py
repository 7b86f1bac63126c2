"""The runtime: one process per device that loads models and runs batches for the sidecar that connects to it.

`supervisor` keeps the socket and forks `process`; `server` speaks to the sidecar; `models` is what it serves. Decides
nothing: which model, when and with how many rows are the sidecar's decisions.
"""
