"""The protocol over gRPC, by grpc.aio: the service and its messages. Never its own rules: `tensors` and `parameters`
say what is refused, as over HTTP."""
