"""Any policy as a serialised JAX program (StableHLO), for any number of observations at once."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pgx_jax.learn.distributions import DiagonalGaussian
from pgx_jax.runs.exporting.subject import Subject, require
from pgx_jax.types import Array

PLATFORMS = ("cpu", "cuda", "tpu")
"""Where the program runs."""


def check(subject: Subject) -> None:
    """Any network fits; refuse where what JAX writes programs down with is not installed.

    Raises:
        ConfigError: with the remedy.
    """
    require("stablehlo", "flatbuffers")


def files(subject: Subject) -> dict[str, bytes]:
    """``.stablehlo``: what `jax.export.deserialize` reads. It is called with observations [b, *shape] and, of
    a policy that is told its task, contexts [b, C] (unless it is exported for one task), float32; and returns
    the parameters of the distributions and the most probable actions, by their names. ``.json``: what
    observations, contexts and actions are."""
    policy = subject.policy
    params, moments = jax.tree.map(jnp.asarray, (subject.params, subject.agent.observation))
    fixed = None if subject.task is None else jnp.asarray(subject.tasks[subject.task], jnp.float32)

    def one(obs: Array, context: Array | None) -> dict[str, Any]:
        told = policy.actor_input(policy.normalise_by(moments, obs), context)
        found, dist = policy.params(params, told), policy.distribution
        names = ("mean", "log_std") if isinstance(dist, DiagonalGaussian) else ("logits",)
        values = found if isinstance(found, tuple) else (found,)
        return {**dict(zip(names, values, strict=True)), "action": dist.to_env(dist.mode(found))}

    (b,) = jax.export.symbolic_shape("b")
    wanted = [jax.ShapeDtypeStruct((b, *subject.shape), np.float32)]
    if policy.conditioned_actor and fixed is None:
        width = len(next(iter(subject.tasks.values())))
        wanted.append(jax.ShapeDtypeStruct((b, width), np.float32))
        many: Any = jax.vmap(one)
    else:
        many = jax.vmap(lambda obs: one(obs, fixed))
    program = jax.export.export(jax.jit(many), platforms=PLATFORMS)(*wanted)
    about = json.dumps(subject.about(), indent=1).encode()
    return {".stablehlo": bytes(program.serialize()), ".json": about}
