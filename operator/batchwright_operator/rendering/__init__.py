"""Parts that children of every kind are made of: metadata, containers, mounts. Pure; fresh dicts, the same for the
same input."""
