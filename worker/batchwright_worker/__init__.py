"""Batchwright."""
