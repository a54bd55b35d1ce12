"""Where a server of ours listens, and who can reach it there."""

from __future__ import annotations

import socket
from ipaddress import ip_address


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free. Raises ValueError where nobody can."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"host {host}, port {port} cannot be listened on: {error}. Try port 0, which is any that is free."
        ) from error


def address(listener: socket.socket) -> str:
    """Where a browser finds it: http://127.0.0.1:8000"""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether no other machine can reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
