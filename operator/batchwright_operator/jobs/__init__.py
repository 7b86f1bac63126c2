"""The InferenceJob: from the user's object to a plan, a run and a commit Job and a status.

A pass reads like the list of files: `reconciler` observes, `observe` says what the raw objects mean (`facts`, with
`runner_pods` for one pod), `progress` counts items, `phase` says where it stands, `plan` decides the children
(`children` their bodies), `status` and `events` report it. `follower` keeps the runners' states. `deployments` has the
same names.

It never reads or writes the data set (runners do), never retries a shard (its Job does), and but for `follower` does no
I/O.
"""
