"""What the results of a run come to: the predicted gain, the verdict, and the advice in words."""

from __future__ import annotations

from operator import itemgetter

from pgx_jax.compare.results import OURS, Interval, Results
from pgx_jax.report.wording import (
    method_label,
    metric_name,
    number,
    ordered_methods,
    steps,
    undecided,
    with_interval,
)

_PHRASES = {
    f"{OURS}_told": "the same groups told their task",
    f"{OURS}_blind": "the same groups not told their task",
    "multitask": "one policy for all",
    "multitask_continued": "one policy for all (continuing the meta-policy)",
    "multitask_conditioned": "one policy for all that is told its task",
    "single_task": "one policy for each task",
    "true_groups": "the true groups",
    "true_groups_continued": "the true groups (continuing the meta-policy)",
    "oracle": "the best of all partitions (its search not counted)",
}

_KINDS = {
    "conflict": "what the other groups want harms a task",
    "company": "what the other groups want helps a task: no conflict",
    "apart": "what the other groups want neither helps nor harms a task",
}
"""What kind of split it is, by the step of all tasks that are not in a task's group."""


def splits_judged(results: Results) -> bool:
    """Whether there was anything to choose but one group: False where k = 1 was given, say."""
    candidates = results.path.k if results.path else []
    return results.n_tasks == 1 or not candidates or any(k > 1 for k in candidates)


def predicted_gain(results: Results) -> Interval:
    """Predicted gain over one policy for all: of our groups, or of the best split if k = 1.

    One group gains nothing over itself, so k = 1 is judged by the evidence for a split, or, in results of
    older versions, by what the best other candidate of the path promises, with the interval of its paired
    difference. Without another there is no prediction.
    """
    if results.k > 1:
        return results.gain.predicted or Interval()
    if results.evidence is not None and splits_judged(results):
        return results.evidence.gain
    path = results.path
    if path is None:
        return Interval()
    candidates = zip(path.k, path.score, path.stderr, strict=True)
    splits = [(score, error) for k, score, error in candidates if k > 1 and score is not None]
    one = path.score[path.chosen]
    if not splits or one is None:
        return Interval()
    best, error = max(splits, key=itemgetter(0))
    gain = best - one
    error = path.stderr[path.chosen] if gain > 0 else error  # of the difference to the best of all
    return Interval(gain, None if error is None else (gain - 1.96 * error, gain + 1.96 * error))


def better_methods(results: Results) -> list[tuple[str, Interval]]:
    """Methods with the same total that do better than ours, and by how much: (name, paired difference).

    Those alone whose interval excludes zero; none in results that lack paired differences.
    """
    found = []
    for name in ordered_methods(results.methods):
        entry = results.methods[name]
        ours = entry.difference or Interval()
        if name != OURS and entry.equal_steps and ours.below_zero:
            found.append((name, -ours))
    return found


def verdict(results: Results) -> str:
    """What the results come to, in a word; "not" where an interval is missing or covers zero.

    "gain", "loss": of our groups, measured; the whole 95% interval is on one side of zero.
    "predicted": a gain is predicted, and was not measured.
    "no_gain": nothing is gained; "not_shown": no gain is shown.
    "too_small": one group, as the gain that is predicted of the best split is not worth a split.
    "not_judged": one group was the only candidate.

    One group is never a gain or a loss: it is one policy for all.
    """
    predicted, realised = predicted_gain(results), realised_gain(results)
    if results.k == 1:
        if not splits_judged(results):
            return "not_judged"
        if _nothing(predicted):
            return "no_gain"
        return "too_small" if predicted.above_zero else "not_shown"
    if realised.mean is None:
        return "predicted" if predicted.above_zero else "not_shown"
    if realised.above_zero:
        return "gain"
    if realised.below_zero:
        return "loss"
    return "no_gain" if _nothing(realised) else "not_shown"


def _nothing(gain: Interval) -> bool:
    """Whether no part of a gain's interval is above zero; False where there is none."""
    return gain.hi is not None and gain.hi <= 0


def advice(results: Results) -> str:
    """What to do, in two or three sentences.

    The first says: group or don't, with the predicted and the realised gain and their intervals. If
    nothing is gained, it says so; if nothing was measured or judged, it says that. The second names the
    best of one policy for all, groups and one policy a task, blind or told; then come all that do better
    than ours, tasks whose group is undecided, and what began with demonstrations.

    Args:
        results: of a run; reads ``k``, ``n_tasks``, ``gain``, ``methods`` and ``path``.
    """
    one_group = results.k == 1
    first = _advice_for_one_group(results) if one_group else _advice_for_groups(results)
    further = (_best_choice(results), _shortfall(results), _undecided(results), _start(results))
    return " ".join(filter(None, (first, *further)))


def _advice_for_groups(results: Results) -> str:
    k, n, kind = results.k, results.n_tasks, verdict(results)
    predicted, realised = _predicted_clause(results), _realised_clause(results)
    if kind in ("gain", "predicted"):
        how = f"one policy for each of these {n} tasks" if k == n else f"these {n} tasks in {k} groups"
        return f"Group: train {how}; {predicted}{', and' if kind == 'gain' else ';'} {realised}."
    value, groups = realised_gain(results), "one policy per task" if k == n else f"{k} groups"
    lone = value.mean is not None and value.lo is None
    because = {
        "loss": f"{groups} gain nothing and lose something",
        "no_gain": f"nothing is gained by {groups}",
        "not_shown": f"no gain by {groups} is {'measured with an interval' if lone else 'shown'}",
    }[kind]
    joint = "while" if value.mean is None else "but"
    doubt = ", which can't be told from zero" if kind == "not_shown" and value.lo is not None else ""
    return _dont_group(results, because, f"{predicted}, {joint} {realised}{doubt}")


def _advice_for_one_group(results: Results) -> str:
    n, kind = results.n_tasks, verdict(results)
    realised = _realised_clause(results)
    if kind == "not_judged":
        penalty = results.path.penalty[0] if results.path and results.path.penalty else None
        setting = "the settings (a trace penalty, or max_groups = 1) left no other candidate"
        given = "k = 1 was given" if penalty is None else setting
        unjudged = "splits were not judged, and their gain was not predicted"
        return f"One policy for all {n} tasks, as {given}: {unjudged}; {realised}."
    because = {
        "no_gain": "nothing is gained by splitting them",
        "not_shown": "no gain by splitting them is shown",
        "too_small": "the gain that is predicted is too small to be worth a split",
    }[kind]
    if kind == "too_small" and results.evidence is not None:
        because = "what a split adds is little beside what training them together still brings"
    joint = "while" if realised_gain(results).mean is None else "and"
    return _dont_group(results, because, f"{_predicted_clause(results)}, {joint} {realised}")


def _dont_group(results: Results, because: str, evidence: str) -> str:
    told = ", told its task," if results.told else ","
    return (
        f"Don't group: train one policy for all {results.n_tasks} tasks{told} because {because}; {evidence}."
    )


CHOICES = (
    "multitask", "multitask_continued", "multitask_conditioned", OURS, f"{OURS}_told", f"{OURS}_blind",
    "single_task",
)  # fmt: skip
"""The simple choices, and ours."""


def _best_choice(results: Results) -> str:
    """The sentence that names the choice that earned most at this budget; empty if there was none."""
    if not _ours_is_fair(results):
        return ""
    means = {name: entry.mean for name, entry in results.methods.items() if entry.equal_steps}
    known = {name: means[name] for name in CHOICES if means.get(name) is not None}
    if len(known) < 3:
        return ""
    best = max(known, key=lambda name: known[name] or 0.0)
    phrase = "ours" if best == OURS else _phrase(results, best)
    earned = with_interval(results.methods[best].interval)
    return (
        f"Of one policy for all, groups and one policy per task, told their task or not, {phrase} earned "
        f"most at this budget, with this seed: {earned}."
    )


def _shortfall(results: Results) -> str:
    """The sentence that names the methods that do better than ours; empty without any."""
    parts = [f"of {_phrase(results, name)} by {with_interval(gap)}" for name, gap in better_methods(results)]
    if not parts:
        return ""
    uncounted = "Even with the given meta-policy's training not counted"
    lead = "At the same total" if _ours_is_fair(results) else uncounted
    return f"{lead}, ours falls short {' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))}."


def _undecided(results: Results) -> str:
    """The sentence that names tasks whose group is undecided; empty where groups are stable."""
    found = results.stability
    if found is None or results.k == 1 or not found.undecided:
        return ""
    told = undecided(found)
    if found.groups != results.groups:
        told = f"In the first split, k = {len(found.groups)}: {told[:1].lower()}{told[1:]}"
    return (
        f"{told} (Of these trajectories' noise alone: another training seed may move "
        f"tasks that are certain here.)"
    )


def _start(results: Results) -> str:
    """The sentence that says which policies began with demonstrations; empty if none did."""
    if OURS not in results.methods or not results.methods[OURS].start:
        return ""
    shown = results.diagnostics.demonstration_steps if results.diagnostics else 0
    cost = f" ({steps(shown)} steps, which are counted)" if shown else ""
    return (
        f"Ours is {results.methods[OURS].start}, as is all that continues the meta-policy, which began with "
        f"what experts showed{cost}; policies from scratch have not seen it."
    )


def _phrase(results: Results, name: str) -> str:
    """What a method is called within a sentence."""
    if name == "multitask" and results.k == 1:
        return "one policy for all without meta-training"
    label = method_label(results.methods, name)
    return _PHRASES.get(name) or label[:1].lower() + label[1:]


def _predicted_clause(results: Results) -> str:
    value = predicted_gain(results)
    if value.mean is None:
        return "the gain was not predicted"
    which = " of the best split" if results.k == 1 else ""
    gain = with_interval(value, signed=True)
    told = ["held-out surrogate score"]
    first = results.path.k[results.path.chosen] if results.path else results.k
    if results.k > 1 and first != results.k:
        told.append(f"of the first split, k = {first}")
    if results.evidence is not None:
        null = number(results.evidence.null, 4)
        if results.evidence.null != results.evidence.gain.mean:  # all partitions of these sizes are that one
            told.append(f"{null} for random groups of these sizes")
        told.append(_KINDS[results.evidence.kind])
    return f"the predicted gain{which} over one policy for all is {gain} ({'; '.join(told)})"


def realised_gain(results: Results) -> Interval:
    """Measured gain over one policy for all; without numbers if there was none."""
    return results.gain.realised or Interval()


def _realised_clause(results: Results) -> str:
    value = realised_gain(results)
    if value.mean is None:
        return "the realised gain was not measured"
    if results.k == 1 and "multitask_continued" in results.methods:
        return "ours is that one policy, so that nothing is gained or lost"
    remarks = [
        "not measured with an interval"
        if value.lo is None
        else "noise of this run's evaluation alone: another training seed may move it several times as far, "
        "--seeds 5 measures that"
    ]
    if results.k == 1:
        owed = "a gain" if value.above_zero else "a loss" if value.below_zero else ""
        remarks.append(
            "ours is one policy, too, trained otherwise" + (f": {owed} of its training" if owed else "")
        )
    gain = f"{with_interval(value, signed=True)} in {metric_name(results.methods)}"
    return f"the realised gain {_total(results)} is {gain} ({'; '.join(remarks)})"


def _total(results: Results) -> str:
    """The total of environment steps at which methods are compared, in words."""
    if not _ours_is_fair(results):
        return "with the given meta-policy's training not counted"
    fair = [entry.env_steps for entry in results.methods.values() if entry.equal_steps and entry.env_steps]
    return (
        f"at the same total of at most {steps(max(fair))} environment steps" if fair else "at the same total"
    )


def _ours_is_fair(results: Results) -> bool:
    """Whether ours keeps the rule of the same total."""
    return OURS not in results.methods or results.methods[OURS].equal_steps
