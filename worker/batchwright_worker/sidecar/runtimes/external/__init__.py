"""A runtime that is somebody else's server, called by the Open Inference Protocol over HTTP or gRPC."""
