"""Scorers behind HTTP."""
