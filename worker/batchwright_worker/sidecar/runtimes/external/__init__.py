"""External servers: a runtime that is the user's own server, called by the Open Inference Protocol over HTTP or gRPC.
Never manages its memory: the server does, in a container of its own.
"""
