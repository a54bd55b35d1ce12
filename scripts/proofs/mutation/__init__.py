"""Modules of `scripts/proofs/mutants.py`."""
