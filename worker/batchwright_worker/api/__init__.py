"""The seam between operator and worker: names, wire messages, manifests. The only part of the worker that the
operator imports; depends on nothing else of ours."""
