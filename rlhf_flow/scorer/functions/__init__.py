"""Scorers that call a Python function."""
