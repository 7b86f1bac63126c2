"""Model tasks: rows to replicas of a ModelDeployment and back. Batches are made by the sidecar, not here."""
