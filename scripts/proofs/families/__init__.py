"""Tiny random models of many architectures, for `checkpoints.py` and the tests of published checkpoints."""
