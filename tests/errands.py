"""What workers do in tests: little, and without the libraries that take long to import."""

import os
import signal
import time
from pathlib import Path


def twice(number):
    return 2 * number


def place(number):
    """The process that works, and its share of the cores."""
    time.sleep(0.2)  # so that others work as well
    return os.getpid(), os.environ["NPROC"]


def die_once(marker):
    """A path: the process is killed where it is not there yet."""
    if Path(marker).exists():
        return "done"
    Path(marker).touch()
    os.kill(os.getpid(), signal.SIGKILL)


def wait_long(marker):
    Path(marker).write_text(str(os.getpid()))
    time.sleep(300)
