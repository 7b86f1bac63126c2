"""A Triton model repository as a ModelDeployment: `repository` reads it, `mapping` says what its words mean here."""
