"""The CRDs, generated from the typed manifests and status types. Used by `make generate` and tests, never by a
reconciler: what a CRD rejects, the API server rejects."""
