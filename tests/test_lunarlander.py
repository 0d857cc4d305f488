"""The family lunarlander: its worlds, its settings, and steps that are the simulator's own."""

import gymnasium
import jax
import numpy as np
import pytest

from pgx_jax import make_family
from pgx_jax.compare.budget import make_budget
from pgx_jax.config import check, config_for
from pgx_jax.errors import ConfigError

pytest.importorskip("Box2D")

FAMILY = make_family("lunarlander")
KEY = jax.random.PRNGKey(3)


def task(i):
    return jax.tree.map(lambda x: x[i], FAMILY.tasks)


def test_worlds():
    worlds = FAMILY.tasks.arguments
    assert FAMILY.n == 6 and FAMILY.engine == "host" and FAMILY.true_groups is None
    assert ((worlds["gravity"] >= -11.5) & (worlds["gravity"] <= -3)).all()
    assert worlds["enable_wind"].sum() == 3 and len(set(worlds["gravity"])) == 6
    np.testing.assert_array_equal(worlds["wind_power"] > 0, worlds["enable_wind"])
    unseen = FAMILY.sample_test_tasks(KEY, 5).arguments
    assert len(unseen["gravity"]) == 5 and not np.isin(unseen["gravity"], worlds["gravity"]).any()
    again = make_family("lunarlander").tasks
    jax.tree.map(np.testing.assert_array_equal, FAMILY.tasks, again)
    assert not np.array_equal(
        make_family("lunarlander", seed=1).tasks.arguments["gravity"], worlds["gravity"]
    )


def test_its_defaults_are_a_run_that_can_start():
    config = config_for(FAMILY)
    assert config.ppo.gamma == 0.999 and config.ppo.num_envs % FAMILY.n == 0
    check(config, FAMILY)
    assert make_budget(config, FAMILY, config.ppo).rest() > 0


@pytest.mark.parametrize("i", [0, 1, 2])
def test_steps_are_the_simulators(i):
    """A copy that has had another task before steps as a simulator made for the task does."""
    copy, rng = FAMILY.env.make(), np.random.default_rng(i)
    copy.reset(1, task(5))
    copy.step(2)
    given = {name: value[i].item() for name, value in FAMILY.tasks.arguments.items()}
    env = gymnasium.make("LunarLander-v3", **given)
    for seed in range(2):
        np.testing.assert_array_equal(copy.reset(seed, task(i)), env.reset(seed=seed)[0])
        ended, t = False, 0
        while not ended and t < FAMILY.horizon:
            action, t = int(rng.integers(4)), t + 1
            ours, theirs = copy.step(action), env.step(action)
            np.testing.assert_array_equal(ours.obs, theirs[0])
            assert (ours.reward, ours.terminated) == theirs[1:3]
            ended = ours.terminated
        assert ended
    copy.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_tasks": 1}, "n_tasks"),
        ({"gravity": (-12.0, -3.0)}, "gravity must be a pair low <= high between -12 and 0"),
        ({"gravity": (-3.0, -9.0)}, "gravity must be a pair"),
        ({"wind_power": (0.0, 25.0)}, "wind_power must be a pair .* between 0 and 20"),
        ({"turbulence_power": 2}, "turbulence_power must be a pair"),
        ({"windy": 1.5}, "windy is a fraction"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_family("lunarlander", **settings)
