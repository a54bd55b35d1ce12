"""What `scripts/gpu_learner.py` is made of."""
