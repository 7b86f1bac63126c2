"""The scheduler's calls written down, and repeated to see whether it decides the same. The scheduler knows nothing of
it."""
