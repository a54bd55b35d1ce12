"""What `scripts/proofs/mutants.py` is made of."""
