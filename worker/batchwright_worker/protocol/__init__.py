"""The Open Inference Protocol in front of the engine: tensors, bodies, metrics. Never queues and never schedules."""
