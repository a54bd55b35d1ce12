"""Scorers that wait for people."""
