"""Layer-by-layer serving of several models in a runtime: which accelerator, which models, one executor for all of
them."""
