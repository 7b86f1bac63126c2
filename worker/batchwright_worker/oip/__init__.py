"""The Open Inference Protocol, version 2, as generated protobuf messages and gRPC stubs."""
