"""Modules of `scripts/bench/transfers.py`."""
