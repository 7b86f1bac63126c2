"""The sidecar's process: wires front ends, engine and runtimes together, serves the control port, drains, traces.
Decides nothing about requests: that is `scheduler` and `engine`."""
