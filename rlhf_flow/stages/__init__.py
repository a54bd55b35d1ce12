"""The stages of a round, called by `rlhf_flow.loop`."""
