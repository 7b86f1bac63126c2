"""The machinery under every reconciler: informers, cache, work queue, applier, event recorder. Knows no kind of
ours."""
