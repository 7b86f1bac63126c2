"""The runtime: one process per device that holds models and runs batches; it decides nothing."""
