"""What the statuses of both kinds share: when a write is worth it, percentiles over pods, and the status of a spec
that cannot be parsed. Pure; never writes one: the controller does, once per pass."""
