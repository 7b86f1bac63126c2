"""Runs a schedule on a device: CPU, CUDA or emulated. Decides nothing: asks `core`."""
