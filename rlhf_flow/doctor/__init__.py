"""Checks for `rlhf-flow doctor`: packages, machine, network, disks, checkpoints and tokenizers."""
