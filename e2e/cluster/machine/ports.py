"""Free TCP ports on an address."""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 12_000


def free_port(address: str = "127.0.0.1") -> int:
    """A port that was free a moment ago. Raises OSError if none is found."""
    return free_ports(1, address)[0]


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that were free a moment ago, all different. Raises OSError if they are not found."""
    # Below the range from which the system takes ports for outgoing connections: one of those met the port of a server
    # that was still starting, and the suite waited for it in vain. Another process that asks here may still take it.
    below = int(_RANGE.read_text().split()[0]) if _RANGE.exists() else 32_768
    found: list[int] = []
    for port in random.sample(range(_LOWEST, below), min(1000, below - _LOWEST)):
        if len(found) == count:
            break
        with socket.socket() as listener:
            try:
                listener.bind((address, port))
            except OSError:
                continue
        found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports on {address} from {_LOWEST} to {below}")
    return found
