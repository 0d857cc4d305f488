"""PPO by gradients of single tasks: what the methods are given, on both engines, and in runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from hosts import host_points
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import fresh
from small import small
from test_interrupted import Memory, stopping
from toys import PerTask

from envs.points import points
from pgx_jax import PPO, ConfigError, Run
from pgx_jax.learn import LEARNERS, Taskwise, make_policy, train
from pgx_jax.learn.learner import RowTasks
from pgx_jax.learn.ppo import Batch, ppo_loss
from pgx_jax.learn.surgery import Weighting, mean
from pgx_jax.learn.taskwise import FAMO, CAGrad, GradNorm, PCGrad, blocks
from pgx_jax.types import Rows

KEY = jax.random.PRNGKey(2)
NAMES = ("pcgrad", "cagrad", "famo", "gradnorm")
SETTINGS = {
    "learning_rate": 2e-2,
    "entropy": 0.01,
    "num_envs": 6,
    "num_steps": 5,
    "epochs": 2,
    "minibatches": 2,
}
DEVICE = points(n_tasks=4, n_groups=2, horizon=6)
HOST = host_points(n_tasks=4, n_groups=2, horizon=6)
POLICY = make_policy(DEVICE, hidden=(8,))
UNIT = PPO(**SETTINGS).steps_per_update
ROWS = Rows(
    np.array([[1, 1, 0, 1], [0, 0, 1, 0]], bool), np.full(2, 5) * UNIT, np.asarray(jax.random.split(KEY))
)


@struct.dataclass
class Mean(Taskwise):
    """The mean of the tasks' gradients, one by one or at once."""

    apart: bool = struct.field(pytree_node=False, default=True)

    def weightings(self):
        """Both the same."""
        return (mean()._replace(compares=self.apart),) * 2


@struct.dataclass
class Shown(Taskwise):
    """Puts what it is shown of the critic in the place of its weights."""

    def weightings(self):
        """Remembers all."""
        return mean(), Weighting(lambda n: None, lambda tasks, state: (tasks.member * 1.0, tasks))


def drawn_batch(task, seed=0):
    """Random transitions of these tasks int [B], and a fresh agent."""
    rng, b = np.random.default_rng(seed), len(task)
    draw = lambda *shape: rng.normal(size=(b, *shape)).astype(np.float32)  # noqa: E731
    context = np.asarray(DEVICE.context)[task]
    batch = Batch(draw(4), context, task, draw(2), draw() - 2, draw(), draw(), np.ones(b, np.float32))
    return batch, fresh(POLICY, DEVICE, KEY)


def direct(learner, batch, agent, member):
    """Direction and memory of one gradient step."""
    row = RowTasks(jnp.asarray(DEVICE.context), jnp.asarray(member), jnp.zeros(6, int), jnp.int32(1))
    step = jax.jit(lambda *args: learner.direction(POLICY, row, *args, KEY))
    return step((agent.actor, agent.critic), batch, learner.begin(POLICY, agent))


def close(ours, theirs, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


TASK = np.array([0, 1, 1, 0, 3, 0, 0, 1, 3, 0])
MEMBER = np.array([True, True, False, True])


def test_methods_are_shown_every_task_by_its_own_transitions():
    batch, agent = drawn_batch(TASK)
    learner = Shown(**SETTINGS)
    _, memory = direct(learner, batch, agent, MEMBER)
    shown = memory.states[1]
    np.testing.assert_array_equal(shown.member, MEMBER)
    grad = jax.jit(jax.grad(ppo_loss), static_argnums=1)
    critic, value = [], jax.vmap(POLICY.value, (None, 0))
    for task in np.flatnonzero(MEMBER):
        own = jax.tree.map(lambda x, task=task: x[task == TASK], batch)
        inputs = POLICY.critic_input(own.obs, own.context)
        error = 0.5 * (value(agent.critic, inputs) - own.target) ** 2
        np.testing.assert_allclose(shown.losses[task], error.mean(), rtol=1e-5)
        leaves = jax.tree.leaves(grad((agent.actor, agent.critic), POLICY, learner, own)[1])
        critic.append(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    expected = np.stack(critic) @ np.stack(critic).T
    np.testing.assert_allclose(shown.products[np.ix_(MEMBER, MEMBER)], expected, rtol=1e-4, atol=1e-6)
    assert (shown.losses[2] == 0) and (shown.products[2] == 0).all()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.sampled_from([(4, 10), (1, 7), (5, 3), (3, 60)]), st.integers(0, 1000))
def test_blocks_hold_every_transition_once_with_others_of_its_task(shape, seed):
    n, size = shape
    rng = np.random.default_rng(seed)
    task = rng.choice(rng.permutation(n)[: rng.integers(1, n + 1)], size)
    index, weight, of = jax.tree.map(np.asarray, jax.jit(blocks, static_argnums=1)(task, n))
    assert index.size <= 2 * size + 2 * n
    filled = weight > 0
    np.testing.assert_array_equal(np.sort(index[filled]), np.arange(size))
    np.testing.assert_array_equal(task[index][filled], np.broadcast_to(of[:, None], index.shape)[filled])
    for i in np.unique(task):
        np.testing.assert_allclose(weight[of == i][filled[of == i]], 1 / (task == i).sum(), rtol=1e-6)


def test_the_mean_is_that_of_the_tasks_apart_or_at_once():
    batch, agent = drawn_batch(TASK)
    apart, _ = direct(Mean(**SETTINGS), batch, agent, MEMBER)
    at_once, _ = direct(Mean(**SETTINGS, apart=False), batch, agent, MEMBER)
    by_hand, _ = direct(PerTask(**SETTINGS), batch, agent, MEMBER)
    close(apart, by_hand)
    close(at_once, by_hand)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_without_transitions_is_left_out_of_a_step(name):
    """The others' gradients are put together as if it were no member."""
    batch, agent = drawn_batch(TASK)
    learner = LEARNERS[name]().replace(**SETTINGS)
    without, _ = direct(learner, batch, agent, MEMBER)
    with_one, memory = direct(learner, batch, agent, np.ones(4, bool))
    close(with_one, without)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(memory))


@pytest.fixture(scope="module", params=["device", pytest.param("host", marks=pytest.mark.slow)])
def plain(request):
    """A family of each engine, and what PPO makes of the rows there."""
    family = {"device": DEVICE, "host": HOST}[request.param]
    return family, train(POLICY, PPO(**SETTINGS), family, ROWS, rows_per_call=2).agents


@pytest.mark.parametrize("name", NAMES)
def test_several_tasks_train_on_both_engines_and_a_single_one_as_by_ppo(plain, name):
    family, theirs = plain
    ours = train(POLICY, LEARNERS[name]().replace(**SETTINGS), family, ROWS, rows_per_call=2).agents
    several, one = (jax.tree.map(lambda x, i=i: x[i], (ours, theirs)) for i in range(2))
    close(*one, rtol=1e-3, atol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, several), strict=True))
    assert moved > 1e-3


def test_a_stopped_training_goes_on_with_the_weights_it_had():
    """To the bit: weights are part of what a row remembers."""
    learner, rows = FAMO(**SETTINGS), ROWS._replace(steps=np.full(2, 25 * UNIT))
    whole, memory = train(POLICY, learner, DEVICE, rows, rows_per_call=2), Memory(every=np.inf)
    with pytest.raises(KeyboardInterrupt):
        train(POLICY, learner, DEVICE, rows, rows_per_call=2, checkpoint=memory, progress=stopping(2))
    (kept,) = memory.history
    assert (kept[1]["updates"] > 0).all() and (kept[1]["updates"] < 25).all()
    again = train(POLICY, learner, DEVICE, rows, rows_per_call=2, checkpoint=Memory.of(*kept))
    jax.tree.map(np.testing.assert_array_equal, again.agents, whole.agents)


def test_a_policy_begins_with_equal_weights_whatever_it_continues():
    batch, agent = drawn_batch(TASK)
    learner = GradNorm(**SETTINGS)
    _, memory = direct(learner, batch, agent, MEMBER)
    assert all((np.asarray(state.weights[MEMBER]) != 1).all() for state in memory.states)
    states = learner.begin(POLICY, agent).states
    assert all((np.asarray(state.weights) == 1).all() for state in states)


def test_they_have_the_settings_of_the_runs_ppo_and_take_their_own(small_settings):
    family, config = small(small_settings, learner="cagrad", learner_options=("c=0.2", "gamma=0.5"))
    run = Run(family, config)
    expected = {f.name: getattr(config.ppo, f.name) for f in dataclasses.fields(PPO)}
    assert run.learner == CAGrad(**expected | {"gamma": 0.5}, c=0.2)
    assert run.learners["pcgrad"] == PCGrad(**expected)
    assert run.learners["famo"].optimiser() is not None and type(run.learners["ppo"]) is PPO


@struct.dataclass
class Nothing(Taskwise):
    """Has no method."""


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        (Nothing(), "the learner 'mine' has no method weightings of its own; write one"),
        (CAGrad(c=-1.0), "mine.c = -1.0 must be 0 or more"),
        (FAMO(epsilon=0.0), "mine.epsilon = 0.0 must be positive"),
        (GradNorm(alpha=-0.1), "mine.alpha = -0.1 must be 0 or more"),
        (PCGrad(num_envs=2), "mine.num_envs = 2 environments for 6 tasks"),
    ],
)
def test_methods_that_cannot_work_are_told_before_any_work(small_settings, no_training, learner, words):
    with pytest.raises(ConfigError, match=words):
        Run(*small(small_settings, learner="mine"), learners={"mine": learner})


def test_learners_without_losses_of_single_tasks_have_no_method(small_settings, no_training):
    """A method is a learner of its own, PPO; another learner takes no option of it."""
    for learner in ("reinforce", "ppo"):
        with pytest.raises(
            ConfigError, match=f"'{learner}' has no setting 'c'; .*'c' is a setting of cagrad"
        ):
            Run(*small(small_settings, learner=learner, learner_options=("c=0.4",)))
