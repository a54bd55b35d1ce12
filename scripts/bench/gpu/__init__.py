"""What `scripts/bench/gpu_learner.py` is made of."""
