"""Rebalancing: a replica that sits badly for long is moved, one at a time (`placement.rebalance` of a ModelDeployment).

`standing` says how much better a replica could have it elsewhere, `imbalance` whether that has lasted, `progress` what
a move that is under way needs next; all three are pure. The move is written on the Deployment (`placement/moves`), from
where `deployments` takes the pod more, and placement chooses its node as always. Nothing is deleted here: the replica
that is to go is marked as the cheapest one, and its ReplicaSet takes that away when it is one pod fewer again.
"""
