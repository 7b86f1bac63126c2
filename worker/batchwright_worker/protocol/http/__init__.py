"""The protocol over HTTP/1.1: framing, connections, routes."""
