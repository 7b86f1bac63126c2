"""What users wrote, parsed: a ModelDeployment and an InferenceJob as values of the operator. Pure; the only readers
of a raw `spec`, and never of a cluster."""
