"""Real networks through the sidecar beside the same framework driven directly, one core for the framework in both."""
