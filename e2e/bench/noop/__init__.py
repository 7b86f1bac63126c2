"""A model that does nothing, next to Mosec: what the front end and the IPC cost."""
