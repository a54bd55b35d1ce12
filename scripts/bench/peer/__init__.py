"""The same rounds in rlhf_flow and in TRL, each side in a process of its own."""
