"""Watching a run: who hears it, and what writes down what they hear.

What writes it for other programs stands by name in `LOGS`; `hearing` and `hearing_seeds` put together who
hears a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgx_jax.errors import ConfigError, pick
from pgx_jax.mesh import leads
from pgx_jax.runs.watching.listener import Listener, Listeners, Several

if TYPE_CHECKING:
    from rich.console import Console


class Log(NamedTuple):
    """Something that writes what a run measures into a folder of the run's."""

    place: str
    """module:class of a listener, which is made with the run's folder."""
    library: str
    """What it needs."""
    extra: str
    """The extra of pgx_jax that installs it."""

    def load(self) -> Callable[[Path], Listener]:
        """The class.

        Raises:
            ConfigError: its library is missing.
        """
        try:
            import_module(self.library)
        except ImportError as error:
            raise ConfigError(
                f'to log there {self.library} is needed ({error}): pip install "pgx-jax[{self.extra}]"'
            ) from error
        module, _, name = self.place.partition(":")
        return getattr(import_module(module), name)


LOGS = {
    "tensorboard": Log("pgx_jax.runs.watching.tensorboard:TensorBoard", "tensorboardX", "tensorboard"),
    "wandb": Log("pgx_jax.runs.watching.weights_and_biases:WeightsAndBiases", "wandb", "wandb"),
}
"""Logs by name; each writes into a folder of that name in the run's."""


def check_logs(names: Sequence[str], out: object) -> None:
    """Refuse logs that are unknown, lack their library, or have no folder to write into, before any work.

    Raises:
        ConfigError: naming the log and the remedy.
    """
    for name in names:
        pick(LOGS, name, "log").load()
    if names and out is None:
        raise ConfigError(f"log = {', '.join(names)}: logs are written into the run's folder; give one (out)")


@contextmanager
def hearing(
    listener: Listener | None, log: Sequence[str], folder: Path | None, progress: bool
) -> Iterator[Listener]:
    """Within it: who hears a run.

    Args:
        listener: of one's own; what shows the progress if not given.
        log: names of `LOGS`.
        folder: of the run.
        progress: whether to show any, where no listener is given.

    Raises:
        ConfigError: logs that cannot work.
    """
    check_logs(log, folder)
    with ExitStack() as ends:
        yield _with_logs(_shown(progress) if listener is None else listener, log, folder, ends)


@contextmanager
def hearing_seeds(
    listener: Listeners | None, log: Sequence[str], folder: Callable[[int], Path] | None, progress: bool
) -> Iterator[Listeners]:
    """The same of runs of several seeds; their folders are told by their seeds."""
    check_logs(log, folder)
    with ExitStack() as ends:
        if listener is None and (console := _console(progress)) is not None:
            from pgx_jax.runs.watching.console import SeedsListener

            listener = ends.enter_context(SeedsListener(console)).of

        def of(seed: int) -> Listener:
            own = Listener() if listener is None else listener(seed)
            return _with_logs(own, log, None if folder is None else folder(seed), ends)

        yield of


def _with_logs(listener: Listener, log: Sequence[str], folder: Path | None, ends: ExitStack) -> Listener:
    """A listener, and logs beside it, closed at the end. Of several processes that share their devices the
    first one alone writes."""
    logs = [] if folder is None or not leads() else [LOGS[name].load()(folder) for name in dict.fromkeys(log)]
    found = Several([listener, *logs])
    ends.callback(found.close)
    return found


def _shown(progress: bool) -> Listener:
    """What shows the progress of a run."""
    console = _console(progress)
    if console is None:
        return Listener()
    from pgx_jax.runs.watching.console import ConsoleListener

    return ConsoleListener(console)


def _console(progress: bool) -> Console | None:
    """Where progress is shown that nobody else shows: on standard error, or in the notebook; None where none
    is wanted, and in other processes than the first of those that share their devices."""
    if not (progress and leads()):
        return None
    from rich.console import Console

    from pgx_jax.runs.watching.console import has_bar

    notebook = Console()
    if notebook.is_jupyter and has_bar(notebook):
        return notebook
    # a kernel asks for colours (FORCE_COLOR), but no bar can move in what it shows without ipywidgets
    return Console(file=sys.stderr, force_jupyter=False, force_terminal=sys.stderr.isatty())
