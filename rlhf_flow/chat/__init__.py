"""Conversations with one or two models in the terminal, and labels of their answers."""
