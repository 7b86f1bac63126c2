"""The laboratory: commands, validator, bound, ablation, published networks, charts, trials of real networks.

Nothing of the product imports it (a contract in `.importlinter`), so nothing here may be what serving needs.
"""
