"""Several models on one accelerator, layer by layer (method C, "Layerweaver", HPCA 2021): while the memory engine
fetches one model's weights, the compute engine runs another's layers.

`core` decides, `networks` cuts models into units, `memory` holds their weights, `profiling` measures, `execution` runs,
`serving` offers it to a runtime process, `tools` is the laboratory. Never batches: batches come from the sidecar.
"""
