"""Pods of every kind, as all reconcilers read them: where one is in its life, why it does not run, and the state that
it serves over HTTP. Decides nothing; what a pod's problem means for its owner, the owner's room says."""
