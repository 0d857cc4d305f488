"""The errors that the project raises on purpose; each message names the culprit and the remedy."""


class PgxError(Exception):
    """Base class: input or data that the method cannot work with."""


class ConfigError(PgxError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(PgxError, ValueError):
    """Arrays that a stage cannot use (non-finite values, no signal, wrong shape)."""


class SolverError(PgxError, RuntimeError):
    """A numerical solver that did not reach a solution."""
