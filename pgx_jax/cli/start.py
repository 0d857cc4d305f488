"""The first moments of the command: an interrupt is told in a word, whatever it falls into.

Little is imported here before interrupts are heard. Where one falls into an import it ends the process at
once: extension modules do not survive an error at any place of theirs, and nothing is lost, since files are
written whole or not at all. Elsewhere it is raised, so that what has begun is saved and told (`main`).
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

STOPPED = 130
"""Exit status of what was interrupted."""
IMPORTING = "<frozen importlib._bootstrap>"
SHOW_CURSOR = "\x1b[?25h"


def start() -> int:
    """Run the command ``pgx-jax``; returns the exit status."""
    heard: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if _imports(frame):
            _end("stopped")
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever began us wants none
        signal.signal(signal.SIGINT, stop)
        sys.unraisablehook = _once_more
    try:
        from pgx_jax.cli.main import main

        status = main()
    except BaseException as error:
        if not heard or isinstance(error, SystemExit):
            raise
        _end("stopped")  # a library took it for a failure of its own, or there was another one
    if status == STOPPED:
        _end()
    return status


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False


def _once_more(what: Any) -> None:
    """Errors that Python cannot raise where they are: an interrupt is heard again where it can be."""
    if what.exc_type is KeyboardInterrupt:
        _thread.start_new_thread(_interrupt, ())  # from here it could not be raised either
    else:
        sys.__unraisablehook__(what)


def _interrupt() -> None:
    time.sleep(0.01)
    _thread.interrupt_main()


def _end(told: str = "") -> NoReturn:
    """End the process now: threads are not waited for, and further interrupts not heard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if told:
        print(told, file=sys.stderr)
    if sys.stdout.isatty():
        sys.stdout.write(SHOW_CURSOR)  # which progress bars hide
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(STOPPED)
