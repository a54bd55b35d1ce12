"""Files, sockets, secrets, cancellation and optional packages."""
