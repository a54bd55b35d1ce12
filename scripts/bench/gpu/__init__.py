"""Modules of `scripts/bench/gpu_learner.py`."""
