"""Real networks cut into units of weights and computation, from ONNX and torch.export. Never runs a schedule."""
