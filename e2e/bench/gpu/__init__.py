"""Benches that need a GPU; each prints what it saw and refuses without one."""
