"""What the machine must have; on Debian and Ubuntu as root, missing packages are installed after saying so."""


def require_nodes() -> None:
    """Have what nodes need."""


def require_images() -> None:
    """Have what building images needs."""
