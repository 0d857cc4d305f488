"""The README's tables of learning, time and operations, as Markdown made from result files alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tables import counted, over_runs, plural, table

from pgx_jax.analysis.cost import SIDE_BY_SIDE, CostResult
from pgx_jax.compare.results import OURS
from pgx_jax.config import EstimateConfig
from pgx_jax.estimate import PRECISIONS, PROJECTIONS
from pgx_jax.learn.device import ROWS_PER_CALL
from pgx_jax.report.cost import lengthened
from pgx_jax.report.wording import duration, steps


def by_platform(cells: Iterable[Mapping]) -> dict[str, list[Mapping]]:
    """The cells of every platform, in the order of their first cells."""
    found = {}
    for cell in cells:
        found.setdefault(cell["cell"]["platform"], []).append(cell)
    return found


def ppo(data: Mapping) -> str:
    """Scores of PPO on stock environments."""
    rows = []
    for c in data["cells"]:
        scores = c["scores"]["sampled"]
        changed = {**c["cell"]["policy"], **c["cell"]["ppo"]}
        settings = ", ".join(f"`{k}={v}`" for k, v in sorted(changed.items())) or "defaults"
        solved = f"{sum(c['solved'])} of {len(scores)}"
        listed = ", ".join(f"{s:.1f}" for s in scores)
        rows.append(
            [c["cell"]["env"], f"{c['solved_at']:.0f}", listed, solved, steps(c["env_steps"][0]), settings]
        )
    head = ["environment", "solved at", "mean of 100 episodes, by seed", "solved", "steps a seed", "settings"]
    return table(head, rows)


PUBLISHED_SPEED_UPS = {2: 21, 4: 24, 8: 26}
"""The paper's, by hidden layers, over fully training the subsets (arXiv 2511.12779)."""


def estimation(data: Mapping) -> str:
    """Estimating all triples against training them, on every platform."""
    known = by_platform(data["cells"]).values()
    return "\n\n".join(
        f"{_speed_up_table(data, cells)}\n\n{_how_estimation_was_timed(data, cells)}" for cells in known
    )


def speed_ups(data: Mapping) -> str:
    """Its tables alone."""
    return "\n\n".join(_speed_up_table(data, cells) for cells in by_platform(data["cells"]).values())


def _speed_up_table(data: Mapping, cells: list[Mapping]) -> str:
    from estimation import found_of

    first = found_of(cells[0])
    rows = [_speed_ups(cell, which) for which in range(len(first.estimates)) for cell in cells]
    head = [
        f"{first.platform}: steps a task of a run, hidden layers", "p", "`estimate.projection`",
        "d", "estimate", "meta-training, collecting", "training all, side by side", "operations", "with meta",
        "side by side", "with meta", "one after another", "with meta", "the paper",
    ]  # fmt: skip
    return table(head, rows)


def _speed_ups(cell: Mapping, which: int) -> list:
    """A row: costs of the estimate and of training all triples, and their ratios."""
    from estimation import found_of

    found = found_of(cell)
    costs = (found.estimate(which), found.before(which), found.train_all())
    ratios = [ratio for ups in found.speed_ups(which).values() for ratio in ups]
    way, depth = found.estimates[which], cell["cell"]["layers"]
    published = f"{PUBLISHED_SPEED_UPS[depth]}×" if depth in PUBLISHED_SPEED_UPS else "–"
    what = [f"{steps(cell['cell']['steps_per_task'])}, {depth}", f"{found.parameters:,}"]
    what += [f"`{way.projection}`", way.dim, *(duration(cost.seconds) for cost in costs)]
    return [*what, *(f"{ratio:.0f}×" if np.isfinite(ratio) else "–" for ratio in ratios), published]


def _how_estimation_was_timed(data: Mapping, cells: list[Mapping]) -> str:
    """The table's caption."""
    from estimation import found_of

    known, (short, long) = [found_of(cell) for cell in cells], data["settings"]["updates"]
    first, lengths = known[0], [lengthened(found) for found in known]
    every = [found.train_all().seconds for found in known]
    chosen = " and ".join(
        f"{_range(np.divide(every, [found.estimate(i, selecting=True).seconds for found in known]))} "
        f"times as long (`{way.projection}`, d = {way.dim})"
        for i, way in enumerate(first.estimates)
    )
    updates = " or ".join(f"{count:.0f}" for count in sorted({found.training.updates for found in known}))
    least, most = min(x for x, _ in lengths), max(x for _, x in lengths)
    return (
        f"Speed-ups of estimating all {first.subsets} subsets of {first.sizes[1]} of "
        f"{data['settings']['family']} over training a policy for each, in operations and in time, with "
        f"meta-training and collecting not counted and counted. Each policy gets what a group of as many "
        f"tasks gets in a run ({updates} updates). Times are of one core, warm and in one run (processor "
        f"time, which other work does not lengthen). Training is scaled up: some policies were trained for "
        f"{short} and for {long} updates, the difference is the time of an update, and {long} take "
        f"{least:.2f} to {most:.2f} times as long as {short}. Side by side: in one call (on one core "
        f"policies take turns, as programs of several are slower there); one after another: in a call each. "
        f"Operations are counted from the traced programs. `{EstimateConfig().projection}` is the default. "
        f"With the features and the grouping by which the groups are selected added to the estimate, side by "
        f"side takes {chosen} (meta-training not counted). {_reached(cells)}"
    )


OPERATIONS, CLOCK = 50, 25
"""How many times as much training all side by side is to take at long horizon, in operations and in time,
with meta-training not counted."""


def _reached(cells: list[Mapping]) -> str:
    """Where these were reached, in words."""
    from estimation import found_of

    by_total: dict[int, list[CostResult]] = {}
    for cell in cells:
        by_total.setdefault(cell["cell"]["steps_per_task"], []).append(found_of(cell))

    def told(which: int, total: int) -> str:
        ups = [found.speed_ups(which) for found in by_total[total]]
        ratios = np.array([(x["operations"].alone, x[SIDE_BY_SIDE].alone) for x in ups])
        operations, seconds = (_range(column) for column in ratios.T)
        missed = (np.round(ratios) < (OPERATIONS, CLOCK)).any()
        return f"{operations} and {seconds} at {steps(total)}" + " (**not reached**)" * bool(missed)

    ways = [
        f"with `{way.projection}`, d = {way.dim}: {', '.join(told(i, total) for total in sorted(by_total))}"
        for i, way in enumerate(found_of(cells[0]).estimates)
    ]
    return (
        f"To be reached with long training side by side, meta-training not counted: {OPERATIONS} times in "
        f"operations, and {CLOCK} times in time. By steps a task it is, {'; '.join(ways)}. The longer "
        f"policies train, the more is saved: the estimate reads no more than {EstimateConfig().steps:,} "
        f"transitions of a task at a look."
    )


def _range(numbers: Sequence[float]) -> str:
    """The least and the largest in whole numbers, or the one that both are, of those that are known."""
    known = [number for number in numbers if np.isfinite(number)]
    return " to ".join(dict.fromkeys(f"{end(known):.0f}" for end in (min, max))) if known else "–"


def surrogates(data: Mapping) -> str:
    """All surrogates in one call, by the default's one step and solved, against scikit-learn's loop."""
    rows = []
    for c in data["cells"]:
        theirs, times = c["sklearn"], c["timings"]
        step = next(n for n in c["newton"] if n["iterations"] == 1)
        default = (duration(step["timings"]["seconds"]), f"{step['gap']:.1e}")
        each = (duration(np.median(times["ours"])), f"{c['gap']:.1e}")
        other = (duration(np.median(times["sklearn"])), f"{theirs['gap']:.1e}")
        solver = f"{theirs['solver']}, {theirs['dtype']}"
        where = f"{c['cell']['platform']}, {c['cell']['l2']:g} u"
        rows.append([where, *default, *each, *other, solver, f"{times['speedup']:.1f}×"])
    first = data["cells"][0]
    more = max(first["newton"], key=lambda n: n["iterations"])
    head = [
        *("ridge", "default: one step", "gap", "solved in one call", "gap"),
        *("scikit-learn", "gap", "its fastest solver", "solved: speed-up"),
    ]
    facts = (
        f"m = {first['subsets']} surrogates, N = {first['rows']:,} transitions, d = {first['dim']}. "
        f"Gap: the largest (L − L*) / (L(0) − L*). The default is not a solution but one step of Newton's "
        f"method from 0, exact for the quadratic that the loss is near θ*; {more['iterations']} of them "
        f"(`--estimate.iterations {more['iterations']}`) take {duration(more['timings']['seconds'])} at "
        f"{first['cell']['l2']:g} u and leave a gap of {more['gap']:.1e}. Solved is `--estimate.solver "
        f"lbfgs`. scikit-learn runs on the processor everywhere."
    )
    return table(head, rows) + "\n\n" + facts


def features(data: Mapping) -> str:
    """Throughput, compilation and memory of the gradient features."""
    rows = []
    for c in data["cells"]:
        t, cell = c["timings"], c["cell"]
        compiling = duration(t["compile"]) if "compile" in t else "–"
        size = (
            ", ".join(filter(None, [cell["platform"], cell.get("precision")])),
            f"{c['p']:,}",
            cell.get("layers", 2),
            cell["dim"],
            f"{cell['transitions']:,}",
        )
        speed = (f"{t['transitions_per_second']:,.0f}", f"{t['rate'] / 1e9:,.0f}", f"{t['share']:.0%}")
        rows.append([*size, *speed, compiling, f"{t['peak_memory'] / 2**30:.2f} GiB"])
    head = [
        *("on", "p", "hidden layers", "d", "N"),
        *("transitions/s", "GFLOP/s (2 N p d)", "of its sgemm", "compiling, CPU time", "peak memory"),
    ]
    return table(head, rows)


def precision(data: Mapping) -> str:
    """What less precise projections would change, by platform; the largest of all seeds."""
    rows = []
    for platform, cells in by_platform(data["cells"]).items():
        for name in PRECISIONS:
            own = [c["precisions"][name] for c in cells]
            worst = [
                f"{max(x[what] for x in own):.1e}"
                for what in ("features", "inner_products", "affinity", "largest_of_range")
            ]
            same = f"{sum(x['same_groups'] for x in own)} of {len(own)}"
            rows.append([f"{platform}, `{name}`", *worst, same])
    head = [
        *("on, `estimate.precision`", "features", "their inner products", "affinity"),
        *("its largest entry's, of the range", "same groups"),
    ]
    first = data["cells"][0]
    facts = (
        f"Relative differences from float64 products (norm of all entries' differences over their norm), the "
        f"largest of all seeds, d = {first['dim']}, {first['cell']['family']}. On the CPU: products of "
        f"factors that are rounded as on accelerators."
    )
    return table(head, rows) + "\n\n" + facts


def projections(data: Mapping) -> str:
    """Speed of every projection, the errors that it makes, and the groups that follow."""
    parts = (_projection_speed(data["cells"]), _projection_groups(data["cells"]))
    return "\n\n".join(part for part in parts if part)


def _projection_speed(cells: Iterable[Mapping]) -> str:
    cells = [c for c in cells if c["cell"]["part"] == "speed"]
    if not cells:
        return ""

    def told(c: Mapping, name: str) -> str:
        spent = {which: np.array(c["timings"]["rounds"][which]) for which in (name, "gaussian")}
        rate = c["cell"]["transitions"] / np.median(spent[name])
        return f"{rate:,.0f} ({np.median(spent['gaussian'] / spent[name]):.1f}×)"

    body = [[f"`{name}`", *(told(c, name) for c in cells)] for name in PROJECTIONS]
    sizes = [f"{c['cell']['platform']}, p = {c['p']:,}, N = {c['cell']['transitions']:,}" for c in cells]
    return table(["transitions/s (times the Gaussian's), `estimate.projection`", *sizes], body)


def _projection_groups(cells: Iterable[Mapping]) -> str:
    families: dict[str, list[Mapping]] = {}
    for c in cells:
        if c["cell"]["part"] == "groups":
            families.setdefault(c["cell"]["family"], []).append(c)
    if not families:
        return ""

    def told(own: Sequence[Mapping], name: str) -> str:
        draws = [draw for c in own for draw in c["projections"][name]]
        known = [draw["nmi"] for draw in draws if draw["nmi"] is not None]
        nmi = f"; NMI {np.mean(known):.2f}" if known else ""
        return f"{counted(draw['k'] for draw in draws)}{nmi}"

    def error(own: Sequence[Mapping], name: str) -> str:
        found = [draw["error"] for c in own for draw in c["projections"][name]]
        return f"{np.mean(found):.3f} [{min(found):.3f}, {max(found):.3f}]"

    first, title = next(iter(families.items()))
    body = [
        [f"`{name}`", error(title, name), *(told(own, name) for own in families.values())]
        for name in PROJECTIONS
    ]
    planted = [
        f"{name}, {plural(len(own), 'run')}: k "
        + (f"(planted {own[0]['true_k']})" if own[0]["true_k"] else "(no conflict)")
        for name, own in families.items()
    ]
    draws = len(title[0]["projections"]["gaussian"])
    facts = (
        f"Runs of the default settings up to the first look, {plural(draws, 'draw')} of each map, d = "
        f"{title[0]['dim']}; mean NMI with the planted groups. Error: of the features' inner products on "
        f"{first} (p = {title[0]['p']:,}), relative to those of the gradients; mean and range."
    )
    return table(["`estimate.projection`", "error", *planted], body) + "\n\n" + facts


def default_command(data: Mapping) -> str:
    """Time of the default command."""
    cells = data["cells"]
    rows = []
    for c in cells:
        where, times = c["cell"], c["timings"]
        which = "programs of an earlier run" if "programs" in where else where["repeat"] + 1
        earned = [f"{c['methods'][name]['mean']:.1f}" for name in (OURS, "multitask")]
        spent = (duration(times["wall"]), duration(times["cpu"]))
        rows.append([f"{where['platform']}, {which}", *spent, *earned, f"{c['agreement']['nmi']:.3f}"])
    notes = []
    for platform, own in by_platform(cells).items():
        if len(own) > 1:
            same = len({c["results"] for c in own}) == 1
            words = "are equal apart from `timings`" if same else "DIFFER"
            notes.append(f"The results.json of the {len(own)} processes on the {platform.upper()} {words}.")
    head = ["process", "wall time", "CPU time", "ours", "one policy for all", "NMI with the planted groups"]
    return "\n\n".join([table(head, rows), *notes])


def peers(data: Mapping) -> str:
    """How much ours does a second, and how many times as much as every peer; a row each."""
    from peers import OURS, SUBJECTS, ratios

    body, missing, order = [], [], list(SUBJECTS)
    for c in sorted(data["cells"], key=lambda c: order.index(c["cell"]["subject"])):
        subject, unit = c["cell"]["subject"], SUBJECTS[c["cell"]["subject"]].unit
        rate = {name: np.median(found) for name, found in c["timings"].items() if name in c["versions"]}
        for name, ratio in ratios(c).items():
            versions = c["versions"][name].items()
            told = ", ".join(f"{n} {v}" for n, v in versions if n not in ("jax", "flax", "numpy"))
            both = (f"{rate[OURS]:,.0f} {unit}/s", f"{rate[name]:,.0f}")
            spread = f"[{ratio.min():.2f}, {ratio.max():.2f}]"
            body.append([subject, name, told, *both, f"{np.median(ratio):.2f}× {spread}"])
        missing += [f" {n} is left out of {c['cell']['subject']}: {why}." for n, why in c["missing"].items()]
    facts = (
        "Medians and ranges of the rounds' ratios, in turns on one pinned core, process time, compilation "
        "left out; equal settings, networks and data. What differs stands in `benchmarks/peers/`."
    )
    head = ["", "peer", "with", "ours", "peer", "ours / peer"]
    return table(head, body) + "\n\n" + facts + "".join(dict.fromkeys(missing))


def startup(data: Mapping) -> str:
    """CPU time of processes that start and end."""
    body = [
        [f"`{c['cell']['command']}`", duration(c["timings"]["median"]), len(c["timings"]["cpu"])]
        for c in data["cells"]
    ]
    return table(["command", "CPU time, median", "processes"], body)


def against(data: Mapping) -> str:
    """Time and compilations of this code and an earlier one, and what became different."""
    from against import summary

    body = []
    for row in summary(data["cells"]):
        counts = ["–" if n is None else n for n in row["compilations"]]
        what = {"with_features": "time", "wall": "wall time", "cpu": "CPU time"}[row["time"]]
        both = (duration(row["before"]), duration(row["now"]), f"{row['ratio']:.2f}")
        body.append([f"{row['subject']}: {what}", *both, *counts])
    earlier = f"at {data['settings']['before']}"
    head = ["", earlier, "now", "ratio", f"compilations {earlier}", "now"]
    told = [*map(_differences, data["cells"]), _curves([c for c in data["cells"] if "returns" in c])]
    return "\n\n".join([table(head, body), *filter(None, told)])


def _curves(cells: Sequence[Mapping]) -> str:
    """Mean returns over parts of the training of both sides, and the differences of equal seeds."""
    if not cells:
        return ""
    body = []
    for c in cells:
        before, now = (np.array(c["returns"][side]) for side in ("before", "now"))  # [parts, seeds]
        told = map(over_runs, now - before)
        values = [
            f"{x.mean():.1f}, {y.mean():.1f} ({d.mean:+.1f} [{d.ci95[0]:+.1f}, {d.ci95[1]:+.1f}])"
            for x, y, d in zip(before, now, told, strict=True)
        ]
        body.append([f"{c['cell']['subject']}, {plural(len(now.T), 'seed')}", *values])
    parts = [f"part {i + 1} of {len(body[0]) - 1}" for i in range(len(body[0]) - 1)]
    head = ["mean return while training: before, now (difference)", *parts]
    return table(head, body) + "\n\nIntervals: 95%, over seeds, which are the same on both sides."


def _differences(cell: Mapping) -> str:
    found = cell["differences"]
    if cell["cell"]["round"] or not found["values"]:
        return ""
    same = f"{found['differ']:,} of {found['values']:,} values of results.json differ"
    added = f"; new: {', '.join(f'`{x}`' for x in found['added'])}" if found["added"] else ""
    gone = f"; gone: {', '.join(f'`{x}`' for x in found['gone'])}" if found["gone"] else ""
    return f"{cell['cell']['subject'].capitalize()}: {same}{added}{gone}."


def _apart(data: Mapping) -> dict[str, dict[int, str]]:
    """How long rows take in one call, over the same rows in warm calls of their own; by rows of a program."""
    found: dict[str, dict[int, str]] = {}
    for done in data["cells"]:
        cell = done["cell"]
        if "apart" in cell:
            title = (
                f"{cell['platform']}, {plural(cell['lanes'], 'lane')}: time of {cell['rows']} rows in one "
                f"call over that of as many warm calls"
            )
            ratios = np.divide(done["timings"]["train"], done["timings"]["apart"])
            found.setdefault(title, {})[cell["rows_per_call"]] = f"{np.median(ratios):.2f}"
    return found


def _kind_of_rows(cell: Mapping) -> str:
    also = " and initialising" if cell.get("initialising", True) else ""
    return f"{cell['platform']}, {plural(cell['lanes'], 'lane')}, {cell['updates']} updates a row{also}"


def rows(data: Mapping) -> str:
    """Steps a second by lanes and rows of one program, and the time of the whole default command."""
    cells = [c for c in data["cells"] if "lanes" in c["cell"] and "apart" not in c["cell"]]
    widths = sorted({c["cell"]["rows_per_call"] for c in cells})
    rate = {}
    for c in cells:
        kind, width = _kind_of_rows(c["cell"]), c["cell"]["rows_per_call"]
        rate.setdefault(kind, {})[width] = f"{c['timings']['steps_per_second']:,.0f}"
    body = [[kind, *(rate[kind].get(width, "–") for width in widths)] for kind in sorted(rate)]
    whole = {}
    for c in data["cells"]:
        if "lanes" not in c["cell"]:
            key = c["cell"]["platform"], c["cell"]["rows_per_call"]
            whole.setdefault(key, []).append(c["timings"]["wall"])
    for platform in sorted({platform for platform, _ in whole}):
        walls = [f"{np.median(whole[platform, w]):.0f} s" if (platform, w) in whole else "–" for w in widths]
        body.append([f"{platform}, the whole default command, cold", *walls])
    body += [[kind, *(ratio.get(width, "–") for width in widths)] for kind, ratio in _apart(data).items()]
    shown = table(["steps/s by rows of one program", *map(str, widths)], body)
    measured = {c["cell"]["platform"] for c in cells}
    defaults = {True: [], False: []}
    for name, count in ROWS_PER_CALL.items():
        defaults[name in measured].append(f"{count} on {'the' if name == 'cpu' else 'a'} {name.upper()}")
    known, guessed = (" and ".join(defaults[key]) for key in (True, False))
    verb = "is a guess" if len(defaults[False]) == 1 else "are guesses"
    rest = f"; {guessed} {verb}: not measured" if guessed else ""
    return f"{shown}\n\nThe default is {known}{rest}."
