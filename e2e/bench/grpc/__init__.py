"""A model that does nothing, over gRPC: what a unary call costs, beside another version of this repository."""
