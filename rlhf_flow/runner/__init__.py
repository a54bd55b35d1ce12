"""Runs a configuration: checks, workers, manifest."""
