"""A run: its stages, and the folder that keeps them.

What is called from outside stands in `pgx_jax` itself: `run`, `Run`, `Listener`, `load`, `resume` and
`regroup`. Of the modules, `store.RunStore` is a run's folder and `stages.STAGES` are the stages by name.
"""
