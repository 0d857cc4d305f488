"""``python -m pgx_jax`` is the command ``pgx-jax``."""

import sys

from pgx_jax.cli.main import main

sys.exit(main())
