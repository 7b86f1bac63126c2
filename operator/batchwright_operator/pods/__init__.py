"""What a pod of ours says: why it does not run, and the state that it serves over HTTP. Shared by all reconcilers;
decides nothing."""
