"""What `scripts/bench/transfers.py` is made of."""
