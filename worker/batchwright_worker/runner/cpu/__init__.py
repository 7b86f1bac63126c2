"""CPU tasks: users' and built-in functions in a pool of processes. Never calls a model."""
