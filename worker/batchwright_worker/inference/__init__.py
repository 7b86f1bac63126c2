"""A request, its result, its errors, and the runtime that computes it: what protocol, engine and runtimes share.
Values and protocols only."""
