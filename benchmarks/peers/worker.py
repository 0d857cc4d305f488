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


def shared(name):
    """Path of a file by which our script hands data to the peers'."""
    return os.path.join(os.environ["PEERS_SHARED"], name)


def serve(settings, count, one_round, packages, judge=None) -> None:
    """Answer on standard output, a line of JSON each.

    Args:
        settings: what must be equal for all peers.
        count: of the subject's unit in a round (environment steps, for instance).
        one_round: (number of the round) -> what it came to; returns when all is computed.
        packages: whose versions are told.
        judge: (what a round came to) -> a number for the record; its time does not count.
    """
    one_round(0)  # compiles
    versions = {name: importlib.metadata.version(name) for name in packages}
    say({"settings": settings, "count": count, "versions": versions})
    for number, _ in enumerate(sys.stdin, 1):
        began = time.process_time()
        found = one_round(number)
        spent = time.process_time() - began
        say({"cpu": spent, "came_to": judge(found) if judge else found})


def fastest(ways):
    """The way, of functions without arguments, that takes least process time when it is called again."""
    spent = {}
    for name, way in ways.items():
        way()
        began = time.process_time()
        way()
        spent[name] = time.process_time() - began
    return min(spent, key=spent.get)


def say(what) -> None:
    """A line of JSON."""
    print(json.dumps(what), flush=True)
