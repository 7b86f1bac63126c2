"""The scheduler of batches, pure: queues, admission, order, residency, dispatch. The time is an
argument, never read; no I/O. What `engine` runs, `simulator` runs too, and the dispatch log repeats it."""
