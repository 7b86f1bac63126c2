"""The runner of an InferenceJob: plan, one shard at a time, commit (methods B1-B3). Each step can be killed and run
again. Batches are made by the sidecars that it calls, never here."""
