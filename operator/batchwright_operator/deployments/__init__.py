"""The ModelDeployment: from the user's object to apps/v1 Deployments, Services and a status.

A pass reads like the list of files: `reconciler` observes, `observe` says what the raw objects mean (`facts`, with
`replicas` for one pod), `plan` decides the children (`kind_split` how many replicas of which kind, `children`,
`pod_template` and `volumes` their bodies), `rollout` and `phase` say where it stands, `status` and `events` report it.
`follower` keeps the sidecars' states. `jobs` has the same names.

It never chooses a node (`placement` does), never chooses a batch size (the sidecars do), and but for `follower` does no
I/O.
"""
