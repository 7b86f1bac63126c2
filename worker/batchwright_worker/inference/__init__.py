"""A request, its result, its errors, and the runtime that computes it: the words between protocol, engine and
runtimes. Values only."""
