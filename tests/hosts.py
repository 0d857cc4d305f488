"""Host environments whose steps are known: a twin of the point mass, scripted episodes, pictures."""

import dataclasses
from dataclasses import dataclass

import gymnasium
import numpy as np
from gymnasium import spaces

from envs.gymnasium_adapter import gymnasium_family
from envs.points import points
from pgx_jax.tasks import HostStep, TaskFamily


@dataclass(frozen=True)
class HostPoints:
    """The point mass of envs/points.py in NumPy; starts are drawn by NumPy."""

    start: float = 0.1

    def make(self):
        return _Point(self.start)


class _Point:
    def __init__(self, start):
        self.start = start

    def reset(self, seed, task):
        self.task, self.v = task, np.zeros(2)
        self.x = np.clip(self.start * np.random.default_rng(seed).normal(size=2), -2, 2)
        return np.concatenate([self.x, self.v])

    def step(self, action):
        t = self.task
        v = self.v + 0.1 / t.mass * (t.gain * np.clip(action, -1, 1) - t.drag * self.v)
        x = np.clip(self.x + 0.1 * v, -2, 2)
        self.x, self.v = x, (x - self.x) / 0.1
        reward = t.reward_scale * (1 - np.sqrt(((x - t.goal) ** 2).sum()))
        return HostStep(np.concatenate([self.x, self.v]), reward, False)

    def close(self):
        pass


def host_points(start=0.1, **settings) -> TaskFamily:
    """The family `points`, stepped by `HostPoints`."""
    return dataclasses.replace(points(start=start, **settings), env=HostPoints(start))


class Script:
    """Episodes of set lengths: obs is (number of the task, seed modulo 1000, age); every other episode
    truncates, the others terminate; the reward is the age, plus the action."""

    def __init__(self, trouble=None):
        self.trouble, self.episode, self.steps = trouble, -1, 0

    def reset(self, seed, task):
        self.task, self.seed, self.age, self.episode = task, seed % 1000, 0, self.episode + 1
        return self.obs()

    def obs(self):
        return np.array([self.task["number"], self.seed, self.age], np.float32)

    def step(self, action):
        self.age, self.steps = self.age + 1, self.steps + 1
        lengths = self.task["lengths"]
        over = self.age >= lengths[self.episode % len(lengths)]
        odd = bool(self.episode % 2)
        step = HostStep(self.obs(), float(self.age + action), over and not odd, over and odd, self.age == 2)
        return self.trouble(self, step) if self.trouble else step

    def close(self):
        pass


class ScriptVector:
    """Copies of `Script` behind each convention of gymnasium's vectors; copy i begins with episode i."""

    def __init__(self, autoreset, task, count):
        self.autoreset, self.task = autoreset, task
        self.copies = [Script() for _ in range(count)]
        for i, copy in enumerate(self.copies):
            copy.episode += i  # so that they end at different times
        self.ended = np.zeros(count, bool)

    def reset(self, seeds, mask):
        assert mask.all() or (self.autoreset == "disabled" and mask[self.ended].all())
        self.ended &= ~mask
        pairs = zip(self.copies, seeds.tolist(), mask, strict=True)
        return np.stack([c.reset(s, self.task) if m else c.obs() for c, s, m in pairs])

    def step(self, actions):
        assert not (self.autoreset == "disabled" and self.ended.any())
        idle = self.ended & (self.autoreset == "next_step")
        outs = []
        for copy, action, fresh in zip(self.copies, actions, idle, strict=True):
            if fresh:  # with a reward that must not be believed
                outs.append(HostStep(copy.reset(copy.seed + 1, self.task), 99.0, False, False))
            else:
                outs.append(copy.step(action))
        obs, reward, terminated, truncated, success = (np.stack([o[j] for o in outs]) for j in range(5))
        self.ended, final = terminated | truncated, None
        if self.autoreset == "same_step" and self.ended.any():
            final = np.where(self.ended[:, None], obs, np.nan)
            for i in np.flatnonzero(self.ended):
                obs[i] = self.copies[i].reset(self.copies[i].seed + 1, self.task)
            self.ended[:] = False
        return HostStep(obs, reward, terminated, truncated, success, None, final)

    def close(self):
        pass


@dataclass(frozen=True)
class ScriptEnv:
    """`Script`, alone or in vectors of a convention."""

    autoreset: str | None = None
    trouble: object = None
    processes: int = 1

    def make(self):
        return Script(self.trouble)

    def __getattr__(self, name):
        if name == "make_vector" and self.autoreset:
            return lambda task, count: ScriptVector(self.autoreset, task, count)
        raise AttributeError(name)


def script_family(
    autoreset=None, trouble=None, horizon=6, lengths=((2, 3, 6), (5, 1, 4)), processes=1
) -> TaskFamily:
    """Two tasks of scripted episodes, none longer than 6 steps."""
    high = np.array([9, 1000, 9], np.float32)
    return TaskFamily(
        name="script",
        task_names=("short", "long"),
        env=ScriptEnv(autoreset, trouble, processes),
        tasks={"number": np.arange(2), "lengths": np.array(lengths)},
        observation_space=spaces.Box(-high, high, dtype=np.float32),
        action_space=spaces.Discrete(2),
        horizon=horizon,
    )


class Pictures(gymnasium.Env):
    """Noise, seen as bytes; of two choices the first is rewarded. It takes legal actions alone."""

    action_space = spaces.MultiDiscrete([3, 2])

    def __init__(self, wanted=0, shape=(12, 10, 3), render_mode=None):
        self.wanted, self.render_mode = wanted, render_mode
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def seen(self):
        self.picture = self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)
        return self.picture

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action):
        assert action.shape == (2,) and action.dtype.kind == "i"
        assert (action >= 0).all() and (action < self.action_space.nvec).all()
        return self.seen(), float(action[0] == self.wanted), False, False, {}

    def render(self):
        return self.picture


def pictures(shape=(12, 10, 3)) -> TaskFamily:
    """Two tasks that want different choices."""
    return gymnasium_family(Pictures, {"wanted": [0, 1]}, fixed={"shape": shape}, horizon=4)
