"""New episodes in the middle of acting: a loop gives what a selection gives, and resets when due alone."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs.points import points
from pgx_jax.learn import init_agents, make_policy, rollout, take

FAMILY = points(n_tasks=4, n_groups=2, horizon=5)
POLICY = make_policy(FAMILY, hidden=(8,))
KEY = jax.random.PRNGKey(3)


@dataclasses.dataclass(frozen=True)
class Tangent(type(FAMILY.env)):
    """Whose resets take tangents, as nothing else does."""

    def reset(self, key, task):
        state, obs = super().reset(key, task)
        return state, jnp.tan(obs)


def program(env):
    """Twelve steps of two rows of four slots, compiled, and its arguments; one slot is older than others."""
    agent = take(init_agents(POLICY, FAMILY, np.asarray(KEY)[None]), 0)
    slots = rollout.reset_slots(env, FAMILY.tasks, jax.random.split(KEY, 4))
    slots = slots._replace(age=slots.age + jnp.array([0, 1, 0, 0]))

    def one(slots, key):
        return rollout.unroll(
            POLICY, env, FAMILY.horizon, agent, FAMILY.tasks, jnp.asarray(FAMILY.context), slots, key, 12
        )

    args = jax.tree.map(lambda x: jnp.stack([x, x]), slots), jax.random.split(KEY)
    return jax.jit(jax.vmap(one)).lower(*args).compile(), args


def test_a_loop_gives_what_a_selection_gives(monkeypatch):
    loop, args = program(FAMILY.env)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    selection, _ = program(FAMILY.env)
    found = loop(*args)
    assert found[1].done.sum() > 8
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, selection(*args))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_slots_that_are_done_start_anew_and_others_go_on(monkeypatch, platform):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    ran = rollout.reset_slots(FAMILY.env, FAMILY.tasks, jax.random.split(KEY, 4))
    ran = jax.tree.map(lambda x: x + 7, ran)
    keys, done = jax.random.split(jax.random.PRNGKey(4), 4), np.array([0, 1, 0, 1], bool)
    found = rollout._restart(FAMILY.env, FAMILY.tasks, keys, ran, done)
    for slot in range(4):
        fresh = FAMILY.env.reset(keys[slot], take(FAMILY.tasks, slot))
        wanted = rollout.Slots(*fresh, 0, 0, 0, 0) if done[slot] else take(ran, slot)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), take(found, slot), wanted)
    none = rollout._restart(FAMILY.env, FAMILY.tasks, keys, ran, np.zeros(4, bool))
    jax.tree.map(np.testing.assert_array_equal, none, ran)


def loops_around(text: str, operation: str) -> set[int]:
    """In how many loops an operation of a compiled program stands, wherever it does."""
    found = re.finditer(r"^(?:ENTRY )?%(\S+) .*?\{\n(.*?)^\}", text, re.M | re.S)
    parts = {part[1]: part[2] for part in found}

    def depths(name: str) -> set[int]:
        calls = {part: re.findall(rf"(\w+)=%{re.escape(name)}\b", lines) for part, lines in parts.items()}
        above = {d + ("body" in ways) for part, ways in calls.items() if ways for d in depths(part)}
        return above or {0}

    return set().union(*(depths(part) for part, lines in parts.items() if f" {operation}(" in lines))


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 2), ("gpu", 1)])
def test_the_compiler_leaves_resets_in_their_loop(monkeypatch, platform, loops):
    """Out of it they would be done in every step."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert loops_around(program(Tangent())[0].as_text(), "tan") == {loops}
