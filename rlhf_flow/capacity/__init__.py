"""Estimates for `rlhf-flow plan`: memory, disk, optimizer steps and API calls; wall time from a finished run."""
