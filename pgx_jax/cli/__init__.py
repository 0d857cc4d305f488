"""The command ``pgx-jax``."""
