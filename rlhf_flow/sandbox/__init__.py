"""The embedded world: all that real rounds need, with nothing downloaded."""
