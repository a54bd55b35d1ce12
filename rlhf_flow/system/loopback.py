"""Listening sockets, and whether other machines can reach them."""

from __future__ import annotations

import socket
from ipaddress import ip_address


def listening(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one. Raises ValueError if host and port cannot be bound."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"host {host}, port {port} cannot be listened on: {error}. Try port 0, which picks a free one."
        ) from error


def address(listener: socket.socket) -> str:
    """Its URL: http://127.0.0.1:8000"""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # not an IP address
        return host == "localhost"
