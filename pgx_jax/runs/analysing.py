"""Analyses of a saved run, kept in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pgx_jax.analysis import analysis_of
from pgx_jax.compare.results import to_plain
from pgx_jax.errors import check_types, checked
from pgx_jax.learn import Progress
from pgx_jax.mesh import in_first
from pgx_jax.report import analyses
from pgx_jax.runs.run import Run
from pgx_jax.runs.saved import load
from pgx_jax.runs.serial import dumps
from pgx_jax.steady import one_blas_thread

FOLDER = "analysis"
"""Of a run: a JSON file and a figure of each analysis."""


@checked
def analyse(
    run: Run | str | Path, name: str, settings: Any = None, *, progress: Progress | None = None
) -> Any:
    """Analyse a run, and write what is found into its folder: ``analysis/NAME.json`` and its figure
    ``analysis/NAME.png``, in place of those of an earlier call.

    Args:
        run: a run whose groups are found, or its folder.
        name: of `analysis.ANALYSES`.
        settings: of the analysis (`Analysis.settings`); defaults if not given.
        progress: hears of training.

    Returns:
        The record of the analysis.

    Raises:
        ConfigError: no such analysis or run, a library that is missing, or settings that cannot work.
        DataError: what is measured is not finite.
    """
    chosen = analysis_of(name)
    settings = chosen.settings() if settings is None else settings
    check_types(settings, chosen.settings, name)
    settings.check()
    run = run if isinstance(run, Run) else load(run)
    found = one_blas_thread(lambda: chosen.function(run, settings, progress=progress))()
    if (store := run.store) is not None:
        store.write_file(f"{FOLDER}/{name}.json", (dumps(to_plain(found)) + "\n").encode())
        in_first(lambda: store.write_file(f"{FOLDER}/{name}.png", analyses.render(name, found)))
    return found
