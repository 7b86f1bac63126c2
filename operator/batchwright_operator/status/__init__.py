"""What the statuses of both kinds share: when a write is worth it, percentiles over pods, a spec that cannot be
parsed. Pure."""
