"""Free TCP ports on an address."""

import socket


def free_port(address: str = "127.0.0.1") -> int:
    """A port that was free a moment ago; another process may still take it first."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        port: int = listener.getsockname()[1]
    return port
