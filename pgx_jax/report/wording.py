"""How results are put into words and numbers: shared by the terminal, the page and the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from pgx_jax.compare.results import OURS, SIMILAR, Interval, MethodResult, Timings

_LABELS = {
    OURS: "PolicyGradEx (ours)",
    "multitask": "One policy for all",
    "multitask_conditioned": "One policy for all, told the task",
    SIMILAR: "Gradient similarity",
    "random": "Random groups",
    "true_groups": "True groups",
    "single_task": "One policy per task",
}
_JUDGING = ("similarity", "comparisons", "evaluation")


Methods = Mapping[str, MethodResult]


def ordered_methods(methods: Methods, every: bool = False) -> list[str]:
    """Names of the methods: ours first, then the usual baselines, then any others.

    Of several of a kind that came to the same groups the first, or ``every`` one.
    """
    rank = {name: i for i, name in enumerate(_LABELS)}

    def position(name: str) -> tuple[int, str]:
        family = max((known for known in rank if name.startswith(known)), key=len, default="")
        return rank.get(family, len(rank)), name

    return sorted((name for name, entry in methods.items() if every or not entry.same_as), key=position)


def method_label(methods: Methods, name: str, alone: bool = False) -> str:
    """What a method is called: its own ``label`` where it has one.

    A gradient similarity is called after all of them that came to the same groups, or ``alone``.
    """
    if name in methods and methods[name].label:
        return methods[name].label
    if not name.startswith(f"{SIMILAR}_"):
        return _LABELS.get(name) or name.replace("_", " ").capitalize()
    names = [name, *(n for n, entry in methods.items() if entry.same_as == name and not alone)]
    names = [n for n in names if not (n.endswith("_our_k") and n.removesuffix("_our_k") in names)]
    kinds = (n.removeprefix(f"{SIMILAR}_").replace("_our_k", " at our k") for n in names)
    return f"{_LABELS[SIMILAR]} ({', '.join(kinds)})"


def stage_seconds(timings: Timings) -> list[tuple[str, float]]:
    """(stage, seconds) in the order in which they ran, where they are known."""
    return [(name, seconds) for name, seconds in timings.stages if seconds is not None]


def total_seconds(timings: Timings) -> float | None:
    """Duration of a run: its total, or the sum of its stages; None if not recorded."""
    if timings.total is not None:
        return timings.total
    return sum(seconds for _, seconds in stage_seconds(timings)) or None


def belongs_to_method(stage: str) -> bool:
    """Whether a stage is the method's own, rather than part of judging it."""
    return stage not in _JUDGING


def metric_name(methods: Methods) -> str:
    """ "mean return" or "success rate"."""
    success = any(entry.metric == "success" for entry in methods.values())
    return "success rate" if success else "mean return"


def with_interval(value: Interval, *, signed: bool = False) -> str:
    """ "147.0 [143.8, 150.2]", rounded to what the interval supports; "–" if there is no number."""
    if value.mean is None:
        return "–"
    digits = _decimals(value)
    mean = _fixed(value.mean, digits, "+" if signed else "")
    if value.lo is None or value.hi is None:
        return mean
    return f"{mean} [{_fixed(value.lo, digits)}, {_fixed(value.hi, digits)}]"


def number(value: Any, digits: int | None = None) -> str:
    """A number with ``digits`` decimals, or about four significant digits; anything else as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "–" if value is None else str(value)
    if not math.isfinite(value):
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def steps(value: Any) -> str:
    """Environment steps: 480k, 1.23M."""
    if value is None:
        return "–"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def duration(seconds: float) -> str:
    """Seconds in words: 0.04 s, 41.2 s, 2 min 5 s, 1 h 12 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def flatten(settings: Mapping, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, value as text), in order of their names."""
    rows = []
    for name, value in sorted(settings.items(), key=lambda item: str(item[0])):
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{path}.")
        elif isinstance(value, (list, tuple)):
            rows.append((path, _listed(value)))
        else:
            rows.append((path, "–" if value is None else _setting(value)))
    return rows


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(values: Sequence) -> str:
    """A short list in full, a nested or a long one by its shape and range."""
    if not any(isinstance(value, (list, tuple, Mapping)) for value in values) and len(values) <= 32:
        return ", ".join(map(number, values)) or "–"
    shape, level = [], values
    while isinstance(level, (list, tuple)) and level:
        shape.append(len(level))
        level = level[0]
    numbers = [x for x in _leaves(values) if isinstance(x, Real) and math.isfinite(x)]
    span = f" from {number(min(numbers))} to {number(max(numbers))}" if numbers else ""
    return f"{' × '.join(map(str, shape))} values{span}"


def _leaves(value: Any) -> list:
    nested = isinstance(value, (list, tuple))
    return [leaf for child in value for leaf in _leaves(child)] if nested else [value]


def _fixed(value: float, digits: int, sign: str = "") -> str:
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0: no minus sign before zero


def _decimals(value: Interval) -> int:
    """Digits behind the point: two significant ones of the interval's half width."""
    if value.lo is not None and value.hi is not None and value.hi > value.lo:
        scale = (value.hi - value.lo) / 2
        return min(6, max(0, 1 - math.floor(math.log10(scale))))
    scale = abs(value.mean)
    return 1 if scale == 0 or scale >= 10 else min(6, 2 - math.floor(math.log10(scale)))
