"""OpenTelemetry spans of requests and batches; imported only where traces have somewhere to go."""
