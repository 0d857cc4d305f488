"""The host engine: environments in plain Python."""
