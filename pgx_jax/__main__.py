"""``python -m pgx_jax`` is the command ``pgx-jax``."""

import sys

from pgx_jax.cli.start import start

sys.exit(start())
