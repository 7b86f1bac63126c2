"""The Open Inference Protocol, version 2: generated messages and stubs, datatypes, a client's HTTP tensors.

What servers and clients of this package share. Never a connection, never a policy: no module here imports another room.
"""
