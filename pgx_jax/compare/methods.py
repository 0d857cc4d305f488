"""Methods: sets of policies that serve all tasks, at the same total of environment steps.

Every method is a set of rows. Equal rows of different methods are trained once: a row's key depends on its
tasks and the agent that it goes on from alone. The baselines stand in a table: a new one is a function and an
entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pgx_jax import grouping
from pgx_jax.compare.budget import Budget, bonus, share, suited
from pgx_jax.compare.em import Clustered
from pgx_jax.compare.looks import Looked
from pgx_jax.compare.pool import BASE, Row
from pgx_jax.compare.results import OURS, SIMILAR
from pgx_jax.config import COMPARE, Config
from pgx_jax.errors import ConfigError
from pgx_jax.estimate import SIMILARITIES
from pgx_jax.learn import Learner
from pgx_jax.types import Grouping


class Method(NamedTuple):
    """A set of policies that serve all tasks, and what they cost."""

    labels: np.ndarray
    """int [n]: which policy serves each task."""
    rows: tuple[Row, ...]
    spent: int
    """Steps that the method needs beside the training of its policies."""
    equal_steps: bool = True
    label: str | None = None
    note: str | None = None
    same_as: str | None = None
    """The method that comes to the same groups, of several of a kind."""
    demonstrated: bool = False
    """Whether its policies go on from a theta* that began with demonstrations."""

    @property
    def env_steps(self) -> int:
        """All environment steps of the method."""
        return self.spent + sum(row.steps for row in self.rows)


class Contest(NamedTuple):
    """What methods are made from: the rule of comparison, and what ours has found."""

    config: Config
    budget: Budget
    learners: Mapping[str, Learner]
    labels: np.ndarray
    """int [n]: our groups."""
    similar: Mapping[str, np.ndarray] = {}
    """Groupings by gradient similarity, by kind."""
    clustered: Mapping[str, Clustered] = {}
    """Groupings by clustering on returns, by name, with their policies."""
    best: np.ndarray | None = None
    """int [n]: the best of all partitions, if it was searched for (`compare.oracle`)."""
    searching: int = 0
    """Environment steps that this took."""
    parameters: np.ndarray | None = None
    """float [n, q]: what the tasks are described by, used for nothing but committees."""
    true_groups: np.ndarray | None = None
    """Planted labels, used for nothing but the methods of that name."""
    scoring: int = 0
    """Environment steps that ours took for scoring."""
    looked: Looked | None = None
    """What came of further looks, which led to ``labels``; None if there were none."""
    told: bool = False
    """Whether all policies are told the task, so that none is needed to compare with one that is."""
    can_be_told: bool = False
    """Whether a policy can continue theta* and be told its task from then on."""

    @property
    def k(self) -> int:
        """Number of our groups."""
        return int(self.labels.max()) + 1


def method(
    contest: Contest,
    labels: np.ndarray,
    total: int,
    *,
    spent: int = 0,
    continues: bool = False,
    policy: str = BASE,
    learner: str | None = None,
    **more: Any,
) -> Method:
    """A partition whose policies share ``total`` steps by their numbers of tasks.

    Args:
        contest: the rule of comparison.
        labels: int [n].
        total: environment steps of its policies, adaptation included.
        spent: what it needs before they exist.
        continues: they start from theta* and its critic.
        policy, learner: names of networks and learner; the run's own by default.
        more: further fields of `Method`.
    """
    name = contest.config.learner if learner is None else learner
    known, budget = contest.learners[name], contest.budget
    labels = grouping.canonical(np.asarray(labels))
    member = Grouping(labels).member
    shares = share(member, total, known, contest.config.min_updates)
    rows = tuple(
        Row(
            tuple(map(bool, m)), int(steps), continues, policy, name, _other(int(envs), known),
            None if continues else bonus(contest.config, known, int(m.sum()), budget.n),
        )
        for m, steps, envs in zip(member, *shares, strict=True)
    )  # fmt: skip
    if spent and not budget.meta:
        more |= {"equal_steps": False, "note": "the training of the given meta-policy is not counted"}
    more |= {"demonstrated": continues and budget.demonstrated > 0}
    return Method(labels, rows, spent + budget.n * known.adaptation_steps, **more)


def _other(num_envs: int, learner: Learner) -> int | None:
    """Environments of a row; None for its learner's own."""
    return None if num_envs == learner.num_envs else num_envs


def ours(contest: Contest, policy: str | None = None) -> Method:
    """Our groups: what is left after meta-training, collecting, scoring and all further looks. Their networks
    are those that the settings ask for (`Config.tell_groups`), or of another name."""
    looked = contest.looked
    policy = policy or ("told" if contest.config.tell_groups else BASE)
    if looked is None:
        return like_ours(contest, contest.labels, policy)
    mine = like_ours(contest, contest.labels, policy, looked.spent)
    rows = [row._replace(way=way) for row, way in zip(mine.rows, looked.ways, strict=True)]
    return mine._replace(rows=tuple(rows))


def like_ours(contest: Contest, labels: np.ndarray, policy: str = BASE, more: int = 0) -> Method:
    """Any groups that go on from the meta-policy as ours do where nothing is looked at again (or after
    ``more`` environment steps for that)."""
    rest = contest.budget.rest(contest.scoring) - more
    spent, continues = contest.budget.total - rest, contest.config.continue_meta
    return method(contest, labels, rest, spent=spent, continues=continues, policy=policy)


Methods = dict[str, list[Method]]
"""Methods by name; several draws of one method stand in a list."""


def _one_policy(contest: Contest) -> Methods:
    """From scratch, and told its task."""
    one, total = np.zeros(contest.budget.n, int), contest.budget.total
    from_scratch = partial(method, contest, one, total)
    if contest.told:
        return {"multitask": [from_scratch(note="told the task, as all here")]}
    return {"multitask": [from_scratch()], "multitask_conditioned": [from_scratch(policy="told")]}


def _one_policy_continued(contest: Contest) -> Methods:
    """Theta* trained on as our groups are."""
    if not contest.config.continue_meta:
        return {}
    return {"multitask_continued": [like_ours(contest, np.zeros(contest.budget.n, int))]}


def _told_groups(contest: Contest) -> Methods:
    """Our groups, which were found blind, told their task from then on; or not, where ours are."""
    if not contest.can_be_told or not contest.config.continue_meta:
        return {}
    if contest.config.tell_groups:
        return {f"{OURS}_blind": [ours(contest, policy=BASE)]}
    return {f"{OURS}_told": [ours(contest, policy="told")]}


def _one_policy_a_task(contest: Contest) -> Methods:
    return {"single_task": [method(contest, np.arange(contest.budget.n), contest.budget.total)]}


def _random_groups(contest: Contest) -> Methods:
    sizes, key = grouping.group_sizes(contest.labels), contest.config.stream("random")
    draws = grouping.random_groupings(key, sizes, contest.config.random_draws)
    return {"random": [method(contest, draw, contest.budget.total) for draw in draws]}


def _similar_groups(contest: Contest) -> Methods:
    unscored, found = contest._replace(scoring=0), {}
    for kind, groups in contest.similar.items():
        first = next(other for other, same in contest.similar.items() if (same == groups).all())
        same_as = f"{SIMILAR}_{first}" if first != kind else None
        found[f"{SIMILAR}_{kind}"] = [like_ours(unscored, groups)._replace(same_as=same_as)]
    return found


def _clustered(contest: Contest) -> Methods:
    found: Methods = {}
    adapting = contest.budget.n * contest.learners[contest.config.learner].adaptation_steps
    for name, groups in contest.clustered.items():
        found[name] = [Method(groups.labels, groups.pool.rows, int(groups.spent) + adapting)]
    if "em" in found and planted(contest.true_groups) == contest.k:
        found["em_true_k"] = [found["em"][0]._replace(same_as="em")]
    return found


def _committees(contest: Contest) -> Methods:
    """Tasks with similar parameters, which ours does not see, at our k."""
    if contest.parameters is None or not contest.parameters.shape[1] or not 1 < contest.k < contest.budget.n:
        return {}
    labels = grouping.committees(contest.parameters, contest.k, contest.config.stream("random"))
    return {"committees": [method(contest, labels, contest.budget.total)]}


def _true_groups(contest: Contest) -> Methods:
    if contest.true_groups is None:
        return {}
    found = {"true_groups": [method(contest, contest.true_groups, contest.budget.total)]}
    if contest.config.continue_meta:
        continued = like_ours(contest, contest.true_groups)
        found["true_groups_continued"] = [continued._replace(label="True groups, from the meta-policy")]
    return found


def _named_baselines(contest: Contest) -> Methods:
    """Policies of other networks or by another learner, "told/reinforce", in place of those of a method: what
    that one needs to find its groups is paid here, too."""
    found = {}
    for name in contest.config.baselines:
        named = split_name(name)
        if (base := _base_of(contest, named.groups)) is None:
            continue
        own = contest.budget.n * contest.learners[contest.config.learner].adaptation_steps
        spent = base.spent - own
        found[named.key] = [
            method(
                contest, base.labels, contest.budget.total - spent, spent=spent, policy=named.policy,
                learner=named.learner, label=named.label(contest.learners[named.learner]),
            )
        ]  # fmt: skip
    return found


def _base_of(contest: Contest, name: str) -> Method | None:
    """The method of `BASES` of that name (its first draw), if there is one in this run."""
    if name == OURS:
        return ours(contest)
    makers = (_one_policy, _one_policy_a_task, _random_groups, _similar_groups, _committees, _true_groups)
    return next((made[name][0] for maker in makers if name in (made := maker(contest))), None)


def _more_steps(contest: Contest) -> Methods:
    """Outside the rule, what more steps would buy: every policy alone with the whole total."""
    found = {}
    for made in (_one_policy_a_task, _true_groups):
        for name, (base, *_) in list(made(contest).items())[:1]:
            rows = tuple(_with_steps(contest, row, contest.budget.total) for row in base.rows)
            label = f"{BASES[name]}, each with the whole total"
            found[f"{name}_more_steps"] = [base._replace(rows=rows, equal_steps=False, label=label)]
    return found


def _best_partition(contest: Contest) -> Methods:
    """The best of all partitions: trained as ours is, and (outside the rule) by the policies that told it."""
    if contest.best is None:
        return {}
    found = method(contest, contest.best, contest.budget.total)
    rest = contest.searching - sum(row.steps for row in found.rows)
    search = found._replace(
        spent=found.spent + rest, equal_steps=False, label="Best of all partitions, with its search",
        note="policies of all subsets are counted; these were chosen for what they earned, luck included",
    )  # fmt: skip
    again = like_ours(contest, contest.best)
    note = "; ".join(filter(None, ("the search for its groups is not counted", again.note)))
    return {"oracle": [again._replace(note=note)], "oracle_search": [search]}


def _with_steps(contest: Contest, row: Row, total: int) -> Row:
    """The row with so many steps, in whole updates of the batch that suits them."""
    known = contest.learners[row.learner]
    learner = suited(known, sum(row.member), total, contest.config.min_updates)
    unit = learner.steps_per_update
    return row._replace(steps=total // unit * unit, num_envs=_other(learner.num_envs, known))


_FEW = (_one_policy, _one_policy_a_task, _random_groups, _similar_groups, _named_baselines)
_EQUAL_STEPS = (
    _told_groups, _one_policy, _one_policy_continued, _one_policy_a_task, _random_groups, _similar_groups,
    _clustered, _committees, _true_groups, _named_baselines,
)  # fmt: skip
BASELINES: dict[str, tuple[Callable[[Contest], Methods], ...]] = dict(
    zip(COMPARE, ((), _FEW, _EQUAL_STEPS, (*_EQUAL_STEPS, _best_partition, _more_steps)), strict=True)
)
"""What is compared with ours, by ``config.compare``."""


def planted(labels: np.ndarray | None) -> int | None:
    """Number of planted groups; None where none are."""
    return None if labels is None else len(grouping.group_sizes(labels))


def clustered_at(config: Config, k: int, true_k: int | None) -> dict[int, str]:
    """Numbers of policies (none of one alone) with which tasks are clustered on returns, and what each is
    called in results: ours, and the planted one where that is another.

    Args:
        config: says what is compared.
        k: number of our groups.
        true_k: number of planted groups, if there are any.
    """
    wanted: dict[int, str] = {}
    for number, name in ((k, "em"), (true_k, "em_true_k")):
        if _clustered in BASELINES[config.compare] and name not in config.leave_out and (number or 1) > 1:
            wanted.setdefault(int(number or 1), name)
    return wanted


def clusters(config: Config) -> bool:
    """Whether clustering on returns is among what is compared."""
    return bool(clustered_at(config, 2, 2))


def baselines(contest: Contest) -> Methods:
    """The methods beside ours."""
    found: Methods = {}
    for made in BASELINES[contest.config.compare]:
        found |= made(contest)
    return {name: draws for name, draws in found.items() if name not in contest.config.leave_out}


def most_steps(contest: Contest) -> int:
    """Environment steps that all training takes, meta-training included, if no two methods have a policy in
    common; 0 where it can't be told (too few steps for some method). The groups of ``contest`` may be any."""
    budget, also = contest.budget, clusters(contest.config)
    try:
        found = [ours(contest), *(m for draws in baselines(contest).values() for m in draws)]
    except ConfigError:
        return 0
    trained = sum(row.steps for m in found for row in m.rows)
    return budget.meta + trained + (budget.total if also else 0)  # by clustering on returns


def check_baselines(config: Config, budget: Budget, learners: Mapping[str, Learner]) -> None:
    """Refuse further baselines whose learner cannot train their policies with the total.

    Raises:
        ConfigError: naming the baseline and the remedy.
    """
    for name in config.baselines:
        try:
            named = split_name(name)
            member = Grouping(named.labels(budget.n)).member
            sought = named.groups not in ("multitask", "single_task")
            total = budget.at(len(budget.ends)).rest() if sought else budget.total
            share(member, total, learners[named.learner], config.min_updates)
        except ConfigError as error:
            raise ConfigError(f"baselines: {name!r}: {error}") from None


def kinds(config: Config, budget: Budget, learners: Mapping[str, Learner], told: bool) -> list[Row]:
    """Rows without tasks that stand for all programs by which the methods may be trained: groups of every
    size first."""

    def kind(size: int, total: int, policy: str = BASE, name: str = config.learner) -> Row:
        learner = suited(learners[name], size, size * total // budget.n, config.min_updates)
        return Row((), 0, False, policy, name, learner.num_envs)

    own, some = "told" if config.tell_groups else BASE, max(1, budget.n // 3)  # groups of the likeliest size
    sizes = {"multitask": budget.n, "single_task": 1}
    found = [kind(size, budget.rest(), own) for size in range(1, budget.n + 1)]
    if BASELINES[config.compare]:
        others = [split_name(name) for name in config.baselines]
        if not told and "multitask_conditioned" not in config.leave_out:
            others.insert(0, Named("told", config.learner))
        found += [kind(size, budget.total) for size in range(1, budget.n + 1)]
        found += [kind(sizes.get(x.groups, some), budget.total, x.policy, x.learner) for x in others]
        if not told and config.continue_meta and f"{OURS}_told" not in config.leave_out:
            found.append(kind(some, budget.rest(), "told"))
    return list(dict.fromkeys(found))


def distinct(methods: Sequence[Method]) -> Sequence[Method]:
    """The draws of a method, or the first alone where there was nothing to draw (k is 1 or n)."""
    return methods[:1] if all((m.labels == methods[0].labels).all() for m in methods) else methods


BASES = {
    "multitask": "One policy for all",
    "single_task": "One policy per task",
    OURS: "Our groups",
    "random": "Random groups",
    "committees": "Groups by task parameters",
    "true_groups": "True groups",
    **{f"{SIMILAR}_{kind}": f"Groups by gradient similarity ({kind})" for kind in SIMILARITIES},
}
"""Methods whose groups other networks and learners may have, with their names in words."""


class Named(NamedTuple):
    """A further baseline."""

    policy: str
    """Name of its networks."""
    learner: str
    """Name of its learner."""
    groups: str = "multitask"
    """Whose groups its policies serve: a name of `BASES`."""

    @property
    def key(self) -> str:
        """What results call it."""
        return f"{self.groups}_{self.policy}_{self.learner}"

    def label(self, learner: Learner) -> str:
        """What it is called in words: "One policy for all, told the task, trained by CAGrad".

        Args:
            learner: of the name; one of another name than its class is called by both.
        """
        own = {BASE: "", "told": "told the task"}.get(self.policy, f"network {self.policy}")
        kind = type(learner).__name__
        called = "" if self.learner == kind.lower() else f" ({self.learner!r})"
        return ", ".join(filter(None, (BASES[self.groups], own, f"trained by {kind}{called}")))

    def labels(self, n: int) -> np.ndarray:
        """int [n]: which policy serves each task; where that is yet to be found, as many as there may be."""
        return np.zeros(n, int) if self.groups == "multitask" else np.arange(n)


def split_name(name: str) -> Named:
    """ "told/ppo", "base/ppo/each" or "base/maml/policygradex" as the names of a policy, a learner and the
    method whose groups it has.

    Raises:
        ConfigError: it is not of that form.
    """
    parts = name.split("/")
    policy, learner, groups = [*parts, "multitask"][:3] if len(parts) in (2, 3) else ("", "", "")
    groups = "single_task" if groups == "each" else groups
    if not (policy and learner and groups in BASES):
        raise ConfigError(
            f"baselines: {name!r} is not of the form POLICY/LEARNER, for instance told/ppo, "
            f"POLICY/LEARNER/each, or POLICY/LEARNER/METHOD with the groups of one of {', '.join(BASES)}"
        )
    return Named(policy, learner, groups)
