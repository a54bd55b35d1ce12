"""The command line: `rlhf-flow run` and the other commands."""
