"""From a configuration to a running loop: workers, manifest, model card."""
