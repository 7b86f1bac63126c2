"""Runs batches unit by unit on a device: CPU, CUDA or emulated, each behind the `Accelerator` of `jobs`.

Two threads per device start and end what `core` decides. Never decides an order itself, never cuts or loads a network.
"""
