"""The scheduler of batches, pure: queues, admission, order, residency, dispatch. Told the time, never reads it; does
no I/O. What `engine` runs, `simulator` replays and the dispatch log repeats."""
