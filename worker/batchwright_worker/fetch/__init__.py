"""Downloads the artifacts of a ModelDeployment, before its containers start."""
