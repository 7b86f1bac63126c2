"""Layer by layer across models (method C): one accelerator's compute and memory engines shared by several models."""
