"""The same pieces as in a cluster, as processes on this machine."""
