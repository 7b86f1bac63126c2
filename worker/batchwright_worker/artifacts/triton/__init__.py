"""Triton model repositories: `folders` reads a model's folder, `mapping` says what its words mean here, `refusals` what
cannot be kept. `repository` makes a ModelDeployment of a whole one, `artifact` serves a model of one as an artifact."""
