"""`kubectl batchwright`: reads a cluster and explains it. Never writes."""
