"""An item's way through the graph of tasks, and which task goes first. Does no I/O."""
