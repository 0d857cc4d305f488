"""RL^2: memory over trials, on both engines, against plain loops; and a task that must be found out."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hosts import host_points, script_family
from probes import table, tabular_family
from small import small

from envs.points import points
from pgx_jax import ConfigError, Run
from pgx_jax.learn import PPO, RL2, evaluate, init_agents, make_policy, policies_by_name, take, train
from pgx_jax.learn.batches import make_batch
from pgx_jax.learn.host.acting import Acting
from pgx_jax.learn.host.slots import Tasks
from pgx_jax.learn.memory import outputs, told
from pgx_jax.learn.networks import MLPNetworks
from pgx_jax.learn.policy import PolicyConfig, apply
from pgx_jax.learn.ppo import terms
from pgx_jax.learn.rl2 import usual_value
from pgx_jax.learn.rollout import reset_slots, unroll
from pgx_jax.learn.stopping import divergence
from pgx_jax.types import Memory, Moments, Rows

KEY = jax.random.PRNGKey(5)
SETTINGS = {"start": 0.0, "n_tasks": 4, "n_groups": 2, "horizon": 6}
FAMILIES = {"device": points(**SETTINGS), "host": host_points(**SETTINGS)}
gru = partial(make_policy, network="gru", hidden=(6,), options={"width": 5})
POLICY = gru(FAMILIES["device"])
INDEX = np.array([0, 1, 2, 3, 3])
LENGTH = 15  # of two episodes and a half
LEARNER = RL2(num_envs=5, num_steps=LENGTH, minibatches=2, epochs=2, adaptation_steps=8)
CONTEXT = jnp.asarray(FAMILIES["device"].context)


@partial(jax.jit, static_argnums=(0, 1))
def stepped(policy, network, params, inputs, memory, action, reward, done):
    """What a network returns, and what it knows after the step."""
    found, state = apply(network, params, inputs, memory)
    return found, Memory(state, policy.told(action, reward, done))


def close(ours, theirs, **tolerance):
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), ours, theirs)


def lively(agent, size=0.4):
    """With outputs that depend on all that is seen and remembered."""
    rng = np.random.default_rng(5)
    moved = lambda x: np.float32(x + size * rng.normal(size=x.shape))  # noqa: E731
    actor, critic = jax.tree.map(moved, (agent.actor, agent.critic))
    return agent._replace(actor=actor, critic=critic)


AGENT = lively(take(init_agents(POLICY, FAMILIES["device"], np.asarray(KEY)[None]), 0))


@partial(jax.jit, static_argnames=("policy", "length", "deterministic"))
def on_device(agent, key, slots=None, policy=POLICY, length=LENGTH, deterministic=True):
    family = FAMILIES["device"]
    tasks = jax.tree.map(lambda x: jnp.asarray(x)[INDEX], family.tasks)
    slots = reset_slots(family.env, tasks, jax.random.split(key, len(INDEX))) if slots is None else slots
    where = (tasks, CONTEXT[INDEX], slots)
    return unroll(policy, family.env, family.horizon, agent, *where, key, length, 0.9, deterministic)


def on_host(agent, family, policy, index, length):
    acting = Acting(policy, family, 2, len(index))
    try:
        for place in range(2):
            acting.enter(place, Tasks.of(family), index, np.asarray(family.context)[index], KEY)
        agents = jax.tree.map(lambda x: np.stack([x, x]), agent)
        return take(acting.unroll(agents, jax.random.split(KEY), length, gamma=0.9, deterministic=True), 1)
    finally:
        acting.close()


def remembered(policy, agent, steps):
    """Parameters of all steps' actions, by a plain loop over slots and steps."""
    found = np.empty(steps.done.shape, object)
    for slot in range(steps.done.shape[1]):
        memory = agent.memory
        for t in range(len(steps.done)):
            memory = memory._replace(last=memory.last._replace(begins=steps.age[t, slot] == 0))
            came = (x[t, slot] for x in (steps.action, steps.reward, steps.done))
            seen = policy.normalise(agent, steps.obs[t, slot])
            params, memory = stepped(policy, policy.actor, agent.actor, seen, memory, *came)
            found[t, slot] = jax.tree.map(np.asarray, params)
    return found


@pytest.fixture(scope="module")
def acted():
    """Steps of five slots by the mode on each engine, what the device's slots are left in, and the next trial
    of these."""
    slots, steps = on_device(AGENT, KEY)
    _, more = on_device(AGENT, KEY, slots)
    return {"device": steps, "host": on_host(AGENT, FAMILIES["host"], POLICY, INDEX, LENGTH), "next": more}


@pytest.mark.parametrize("engine", [*FAMILIES, "next"])
def test_memory_goes_on_over_episodes_and_begins_anew_with_each_trial(acted, engine):
    """Every action is that of a plain loop from the beginning of the trial, in episodes that go on from the
    last one, too; without the rewards of the first episode those of the third would be others."""
    steps = jax.tree.map(np.asarray, acted[engine])
    params = remembered(POLICY, AGENT, steps)
    means = np.array([[mean for mean, _ in row] for row in params])
    close(steps.action, means)
    assert (steps.done.sum(0) == (2 if engine != "next" else 3)).all()
    changed = np.where(np.arange(15)[:, None] < 3, 5, steps.reward)
    other = remembered(POLICY, AGENT, steps._replace(reward=changed))
    assert all(abs(other[-1, slot][0] - means[-1, slot]).max() > 1e-5 for slot in range(5))


def test_both_engines_experience_the_same(acted):
    close(acted["host"], acted["device"], rtol=1e-3, atol=1e-4)


def test_slots_that_lag_behind_remember_what_they_did():
    """Where a vector spends a call on a reset, nothing is remembered of it."""
    family = script_family("next_step")
    policy = gru(family, normalise_observations=True)
    agent = lively(take(init_agents(policy, family, np.asarray(KEY)[None]), 0), 1.5)
    agent = agent._replace(observation=Moments(*jnp.array([[0.5, 500, 2], [0.3, 9e4, 4], [9, 9, 9]])))
    steps = on_host(agent, family, policy, np.array([0, 1, 0]), 20)
    assert steps.done.sum() > 10 and 0.1 < steps.action.mean() < 0.9
    logits = remembered(policy, agent, steps)
    np.testing.assert_array_equal(steps.action, np.vectorize(np.argmax, otypes=[int])(logits))


def test_scanned_networks_equal_a_loop_and_slots_are_strangers(acted):
    steps = acted["device"]
    begun = POLICY.begin(AGENT, steps.age[0])
    last = jax.tree.map(lambda x: x[:-1], told(POLICY, begun.last, steps))
    by_slot = partial(jax.tree.map, lambda x: jnp.swapaxes(x, 0, 1))
    known = by_slot((steps.obs, last))

    @jax.jit
    def means(obs, last):
        return outputs(POLICY.actor, AGENT.actor, obs, last)[0]

    loop = remembered(POLICY, AGENT, jax.tree.map(np.asarray, steps))
    close(means(*known), np.array([[mean for mean, _ in row] for row in loop]).swapaxes(0, 1))
    obs, last = known
    slopes = jax.jit(jax.grad(lambda obs, r: means(obs, last._replace(reward=r))[2, -1].sum(), (0, 1)))
    for slope in slopes(obs, last.reward):
        reached = np.abs(np.asarray(slope)).reshape(5, 15, -1).sum(-1)
        assert (reached[2, 1:] > 0).all() and (reached[[0, 1, 3, 4]] == 0).all()


def test_what_was_done_is_as_probable_as_it_was(acted):
    """Before the first gradient step: ratios are 1, and nothing has moved."""
    _, steps = on_device(AGENT, KEY, deterministic=False)
    slots = jnp.asarray(INDEX)
    batch = jax.jit(make_batch, static_argnums=0)(POLICY, LEARNER, AGENT, steps, CONTEXT, slots)
    params = remembered(POLICY, AGENT, jax.tree.map(np.asarray, steps))
    mean, deviation = (np.array([pair[i] for pair in params.flat]) for i in (0, 1))
    log_prob = POLICY.distribution.log_prob((mean, deviation), steps.action.reshape(75, -1))
    close(batch.log_prob, log_prob[:70])
    trials = LEARNER.arranged(batch)
    assert divergence(POLICY, AGENT.actor, trials) == pytest.approx(0.0, abs=1e-9)
    _, objective, _ = terms((AGENT.actor, AGENT.critic), POLICY, LEARNER, trials)
    close(objective, trials.advantage)
    np.testing.assert_array_equal(trials.obs[3], steps.obs[:-1, 3])
    other = jax.tree.map(lambda x: x + 0.1, AGENT.actor)
    assert divergence(POLICY, other, trials) > 1e-4


def test_what_episodes_are_worth_to_each_other(acted):
    """Advantages of a trial by a plain loop: nothing ends in it, and an episode's end is followed by what the
    next one is expected to bring more than episodes of the task do."""
    steps = jax.tree.map(np.asarray, acted["device"])
    steps = steps._replace(terminated=steps.done & (np.arange(15)[:, None] < 6))
    config = LEARNER.replace(standardise_minibatches=True, scale_rewards=False, gamma=0.8, gae_lambda=0.7)
    judge = jax.jit(make_batch, static_argnums=0)
    batch = judge(POLICY, config, AGENT, steps, CONTEXT, jnp.asarray(INDEX))
    value = np.zeros((15, 5))
    for slot, task in enumerate(INDEX):
        memory = AGENT.memory
        for t in range(15):
            inputs = POLICY.critic_input(steps.obs[t, slot], CONTEXT[task])
            came = (x[t, slot] for x in (steps.action, steps.reward, steps.done))
            value[t, slot], memory = stepped(POLICY, POLICY.critic, AGENT.critic, inputs, memory, *came)
    after = {task: [] for task in range(4)}
    for t, slot in np.argwhere(steps.done[:14]):
        after[INDEX[slot]].append(value[t + 1, slot])
    expected, flow = np.zeros((14, 5)), np.zeros(5)
    for t in reversed(range(14)):
        usual = np.array([np.mean(after[task]) for task in INDEX])
        delta = steps.reward[t] + 0.8 * (value[t + 1] - steps.done[t] * usual) - value[t]
        flow = delta + 0.8 * 0.7 * flow
        expected[t] = flow
    close(batch.advantage.reshape(14, 5), expected)
    assert sorted(len(x) for x in after.values()) == [2, 2, 2, 4]
    none = usual_value(jnp.ones((3, 2)), jnp.zeros((3, 2), bool), jnp.array([0, 1]))
    np.testing.assert_array_equal(none, [0.0, 0.0])


def test_an_agent_adapts_by_remembering(acted):
    """What it remembers after a part of its steps leads on as if nothing had been between."""
    steps = jax.tree.map(lambda x: x[:, :1], acted["device"])
    parts = [jax.tree.map(lambda x, part=part: x[part], steps) for part in (slice(0, 8), slice(8, 15))]
    adapted = jax.jit(LEARNER.adapt, static_argnums=0)(POLICY, AGENT, CONTEXT[0], parts[0], KEY)
    close(adapted._replace(memory=None), AGENT._replace(memory=None))
    params = remembered(POLICY, adapted, jax.tree.map(np.asarray, parts[1]))
    close(parts[1].action, np.array([[mean for mean, _ in row] for row in params]))


# Something to find out: one step is an episode, and what is good in one task is worse in the other

WRONG = -2.0
TABLES = [table(1, 3, reward={(0, i): 1.0, (0, 1 - i): WRONG}, terminal={(0, None): True}) for i in range(2)]
SECRET = tabular_family(TABLES, horizon=2, names=("left", "right"))
LEFT = {"learning_rate": 0.01, "gamma": 0.9, "num_envs": 16, "num_steps": 9, "entropy": 0.02}


@pytest.fixture(scope="module")
def finder():
    learner = RL2(**LEFT, final_entropy=0.0, final_learning_rate=0.1, minibatches=2, adaptation_steps=4)
    policy = gru(SECRET)
    rows = Rows(np.ones((1, 2), bool), np.array([150 * learner.steps_per_update]), np.asarray(KEY)[None])
    return policy, learner, train(policy, learner, SECRET, rows)


def test_it_finds_out_on_which_task_it_is(finder):
    """To try is bad at first (-1/2 on average, where 0 can be had), and pays in the episodes after."""
    policy, learner, trained = finder
    pairs = (np.zeros(2, int), np.arange(2))
    played = partial(evaluate, policy, SECRET, trained.agents, *pairs, KEY, episodes=64)
    fresh, adapted = played().returns, played(learner=learner)
    assert fresh.mean() < -0.3  # it tries: no task is known yet
    assert adapted.returns.mean() > 0.9 and (adapted.adaptation_steps == 4).all()
    assert trained.returns[0, -10:].mean() > 0.5  # (-1/2 + 7 or 8) / 9


@pytest.mark.parametrize(
    ("policy", "learner", "words"),
    [
        (gru(SECRET), PPO(**LEFT), "'PPO' knows no memory, and the network RecurrentLogits has one.*gru/rl2"),
        (make_policy(SECRET), RL2(**LEFT), "'RL2' trains networks with memory.* CategoricalActor has none"),
    ],
)
def test_networks_and_learners_of_two_kinds(policy, learner, words):
    rows = Rows(np.ones((1, 2), bool), np.array([10**6]), np.asarray(KEY)[None])
    with pytest.raises(ConfigError, match=words):
        train(policy, learner, SECRET, rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_steps": 1}, "rl2.num_steps = 1: a trial needs at least 2 steps"),
        ({"baseline": "linear"}, "rl2.baseline = 'linear' is one of single observations.*use 'critic'"),
        ({"minibatches": 9}, "rl2.minibatches = 9 of rl2.num_envs = 5 trials; use fewer"),
    ],
)
def test_settings_that_cannot_work(change, words):
    LEARNER.check(4, "rl2")
    with pytest.raises(ConfigError, match=words):
        LEARNER.replace(**change).check(4, "rl2")


def test_a_policy_with_memory_does_not_act_by_single_observations():
    for use in (POLICY.params, POLICY.value):
        with pytest.raises(ConfigError, match="RecurrentGaussian has memory.*take a network without"):
            use(AGENT.actor, jnp.zeros(4))
    with pytest.raises(ConfigError, match="RecurrentGaussian and Critic one alone has memory"):
        dataclasses.replace(POLICY, critic=MLPNetworks().critic())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"policy": PolicyConfig(network="gru")}, "has memory: groups are found by.*--baselines gru/rl2"),
        ({"learner": "rl2"}, "'rl2' trains networks with memory, and GaussianActor has none"),
        ({"baselines": ("told/rl2",)}, "'rl2' trains networks with memory, and GaussianActor has none"),
        ({"baselines": ("gru/pcgrad",)}, "'pcgrad' knows no memory"),
    ],
)
def test_runs_that_cannot_work(small_settings, no_training, settings, words):
    with pytest.raises(ConfigError, match=words):
        Run(*small(small_settings, **settings))


def test_it_is_a_baseline_by_name_and_blind():
    family = FAMILIES["device"]
    config = PolicyConfig(hidden=(6,))
    named = policies_by_name(family, config.make(family), config)
    assert named["gru"].remembers and not named["gru"].conditioned_actor and named["gru"].conditioned_critic
    told = dataclasses.replace(config, conditioned_actor=True)
    assert policies_by_name(family, told.make(family), told)["gru"].conditioned_actor


def test_policies_without_memory_carry_none():
    """The loop of their steps has what the slots are, and nothing else."""
    counts = []
    for policy in (make_policy(FAMILIES["device"], hidden=(6,)), POLICY):
        agent = take(init_agents(policy, FAMILIES["device"], np.asarray(KEY)[None]), 0)
        program = jax.make_jaxpr(partial(on_device.__wrapped__, policy=policy))(agent, KEY)
        scans = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
        (loop,) = [eqn for eqn in scans if eqn.params["length"] == LENGTH]
        slots, _ = jax.eval_shape(partial(on_device.__wrapped__, policy=policy), agent, KEY)
        counts.append(loop.params["num_carry"] - len(jax.tree.leaves(slots)))
    assert counts == [0, 4]
