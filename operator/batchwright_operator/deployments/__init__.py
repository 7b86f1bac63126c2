"""The ModelDeployment: its reconciler, plan, children and status. Same file names as `jobs`. Never chooses a node:
`placement` does."""
