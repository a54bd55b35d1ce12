"""What `scripts/transfers.py` is made of."""
