"""Scorers that are models themselves: reward and preference models."""
