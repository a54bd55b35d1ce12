"""The configuration: its schema, how Hydra composes it, and what fits together."""
