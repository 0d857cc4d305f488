"""What a run leaves for people to read."""

from pgx_jax.report.build import FILES, advice, render, terminal_table, verdict

__all__ = ["FILES", "advice", "render", "terminal_table", "verdict"]
