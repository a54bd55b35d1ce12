"""A scorer as an HTTP server: `rlhf-flow serve`, the other end of `scorer=remote`."""
