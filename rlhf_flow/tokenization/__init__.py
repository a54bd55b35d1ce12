"""Chat templates, end tokens, pairwise prompts."""
