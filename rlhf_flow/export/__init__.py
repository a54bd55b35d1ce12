"""What comes after the loop: its data, policies and merges in the formats of other programs."""
