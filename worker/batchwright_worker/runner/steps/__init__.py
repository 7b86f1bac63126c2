"""The three steps of a job: plan, shard, commit. Each can be killed and run again."""
