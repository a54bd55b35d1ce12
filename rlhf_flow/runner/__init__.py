"""Runs a configuration: checks, workers, manifest, model card."""
