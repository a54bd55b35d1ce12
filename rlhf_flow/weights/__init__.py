"""Weights: their layout, names, hashes and how they are published."""
