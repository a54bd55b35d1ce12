"""Tiny random models of many architectures, for `scripts/checkpoints.py` and the tests of published checkpoints."""
