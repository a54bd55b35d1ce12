"""Chat templates, end tokens, prompts of two answers."""
