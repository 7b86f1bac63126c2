"""Rules across the fields of a manifest, each stated once: as CEL in the CRD and as a check in Python."""
