"""Times of each unit on this processor, fetch and compute, alone and together: measured once and kept on disk. Never
follows a running service: that is `execution.planner`."""
