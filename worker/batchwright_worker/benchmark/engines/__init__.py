"""What runs the reference model on one kind of processor. Never chooses sizes or repeats: `benchmark.series` does."""
