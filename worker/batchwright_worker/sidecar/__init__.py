"""The sidecar: protocol front end, batch queues, dispatch, batch size, residency (the engine)."""
