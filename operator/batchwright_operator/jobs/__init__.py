"""The InferenceJob: its reconciler, plan, children and status. Same file names as `deployments`. Never touches the
data set: runners do."""
