"""Layer-by-layer serving of several models in a runtime process: its accelerator, the models on it, one executor. Never
speaks to the sidecar: `runtime/layerwise_models` does."""
