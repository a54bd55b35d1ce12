"""Scorers around another scorer."""
