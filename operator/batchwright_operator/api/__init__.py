"""What users wrote, parsed: a ModelDeployment and an InferenceJob as values of the operator. Pure; never reads a
cluster."""
