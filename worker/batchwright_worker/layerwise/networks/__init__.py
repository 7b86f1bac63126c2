"""Real networks, from ONNX and torch.export, cut into units: a unit's weights are read in one piece, its computation
runs by itself. Never decides which unit comes next, never keeps a unit's weights."""
