"""The runner of an InferenceJob: plan, one shard at a time, commit (methods B1-B3)."""
