"""What a run leaves for people to read."""

from pgx_jax.report.build import advice, build, terminal_table, verdict

__all__ = ["advice", "build", "terminal_table", "verdict"]
