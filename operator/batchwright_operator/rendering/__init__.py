"""Parts that children of every kind are made of: metadata, containers, mounts. Pure, and fresh dicts for the same
input; never knows which kind of object it renders for."""
