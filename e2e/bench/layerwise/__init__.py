"""Layer-by-layer serving on this machine's CPU, and what one decision costs."""
