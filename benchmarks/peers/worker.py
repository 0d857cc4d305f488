"""How a peer's script answers: it warms up, says its settings, and then runs a round for every line."""

import importlib.metadata
import json
import os
import sys
import time


def pin() -> None:
    """Use one core; before JAX (or whatever else starts threads) is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def serve(settings, steps, one_round, packages) -> None:
    """Answer on standard output, a line of JSON each.

    Args:
        settings: what must be equal for all peers.
        steps: environment steps of a round.
        one_round: (number of the round) -> a mapping of what it came to; returns when all is computed.
        packages: whose versions are told.
    """
    one_round(0)  # compiles
    versions = {name: importlib.metadata.version(name) for name in packages}
    say({"settings": settings, "steps": steps, "versions": versions})
    for number, _ in enumerate(sys.stdin, 1):
        began = time.process_time()
        came_to = one_round(number)
        say({"cpu": time.process_time() - began} | came_to)


def say(what) -> None:
    """A line of JSON."""
    print(json.dumps(what), flush=True)
