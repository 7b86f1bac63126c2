"""Objects of the API server and the operator's metrics -> an `Overview`, which `status` prints and the page draws.

Pure: what is observed is a `ClusterFacts`.
"""
