"""The laboratory: validator, bound, ablation, published networks, charts, commands. Nothing of the product imports
it."""
