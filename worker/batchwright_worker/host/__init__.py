"""This process and its machine: memory, threads, the parent, the processor's name. Knows no model."""
