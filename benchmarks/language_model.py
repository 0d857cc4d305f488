"""A small language model, and preferences taught to it by DPO: a model and a learner of a user's own.

Nothing here knows of groups but that several policies train side by side; nothing in `pgx_jax` knows of
this. What the two have in common is `margin`: log pi(first text | prompt) - log pi(second text | prompt).

Direct preference optimisation (Rafailov et al., 2023, arXiv:2305.18290) minimises, over pairs of which one
text was chosen (y = 1 if the first was, -1 if the second), the mean of

    log(1 + exp(-y beta (margin(theta) - margin(reference)))).

Near theta*, margin(theta) = margin(theta*) + g^T delta with g = grad margin(theta*), so at theta* =
reference this is the mean of log(1 + exp(-y beta g^T delta)): the weighted logistic regression by which
PolicyGradEx tells what any subset of tasks would learn, with a pair for a transition, g for grad log pi and y
for its advantage (beta scales delta alone). Elsewhere the reference's offset remains: the loss has the slope
-beta y s g there, with s = 1 / (1 + exp(y beta (margin(theta*) - margin(reference)))), and 2 y s is the
advantage that gives the regression the same slope (`advantages`).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from language_text import ANYONE, END, LENGTH, OBJECTIVES, TOPICS, VOCABULARY, Pairs, texts

from pgx_jax import Transitions
from pgx_jax.types import Array, Key, PyTree

PROMPT = 2
"""Tokens of a prompt."""


class Transformer(nn.Module):
    """Next-token logits [T, V] of tokens int [T]: causal attention, layer norms before, embeddings tied."""

    width: int = 32
    layers: int = 1
    heads: int = 2

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """Logits of every next token."""
        embed = nn.Embed(len(VOCABULARY), self.width)
        places = self.param("places", nn.initializers.normal(0.02), (PROMPT + LENGTH, self.width))
        x = embed(tokens) + places[: len(tokens)]
        mask = nn.make_causal_mask(tokens)
        for _ in range(self.layers):
            x = x + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(x), mask=mask)
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(hidden)
        return embed.attend(nn.LayerNorm()(x))


MODEL = Transformer()
PRETRAINING_RATE = 3e-3


def log_likelihood(params: PyTree, prompt: Array, text: Array) -> Array:
    """log pi(text | prompt), up to and with the text's first end."""
    tokens = jnp.concatenate([prompt, text])
    told = jax.nn.log_softmax(MODEL.apply(params, tokens[:-1]))[PROMPT - 1 :]
    each = jnp.take_along_axis(told, text[:, None], 1)[:, 0]
    goes_on = jnp.cumprod(text[:-1] != END)
    return each[0] + (each[1:] * goes_on).sum()


def margin(params: PyTree, prompt: Array, pair: Array) -> Array:
    """log pi(first | prompt) - log pi(second | prompt): the `pgx_jax.estimate.LogProb` of a pair of texts."""
    first, second = jax.vmap(log_likelihood, (None, None, 0))(params, prompt, pair)
    return first - second


@jax.jit
def margins(params: PyTree, prompt: Array, pair: Array) -> Array:
    """Margins of the pairs of n readers, prompt [n, N, 2] and pair [n, N, 2, L], by a policy of each reader:
    leaves of ``params`` [n, ...]."""
    return jax.lax.map(lambda x: jax.vmap(margin, (None, 0, 0))(*x), (params, prompt, pair))


def for_all(params: PyTree, n: int) -> PyTree:
    """The same policy n times, along a new first axis."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *jnp.shape(x))), params)


def advantages(sign: Array, lead: Array | float, beta: float) -> np.ndarray:
    """What stands for the advantages of pairs: the slope of DPO's loss where the policy is ahead of the
    reference by ``lead`` (its margin less the reference's), 2 y / (1 + exp(y beta lead)); y at the reference.
    """
    return np.asarray(2 * sign / (1 + np.exp(sign * beta * np.asarray(lead))), np.float32)


def as_transitions(pairs: Pairs, lead: Array | float, beta: float) -> Transitions:
    """Pairs as `pgx_jax.group_transitions` takes them: a prompt for an observation, the two texts for an
    action, and the pairs of a request for a trajectory, one third of which each part gets."""
    n = len(pairs.sign)
    return Transitions(
        obs=pairs.prompt,
        action=pairs.pair,
        advantage=advantages(pairs.sign, lead, beta),
        trajectory=pairs.request,
        split=(pairs.request % 3).astype(np.int8),
        source=np.arange(n),
    )


def reference(seed: int, *, count: int = 4000, steps: int = 1500, batch: int = 64) -> PyTree:
    """A model of the grammar's texts, whoever they are for: where preferences begin, and what they are
    measured from."""
    rng = np.random.default_rng([seed, 3])
    shown = texts(rng, rng.choice(TOPICS, count))
    shown.prompt[:, 0] = rng.integers(ANYONE, ANYONE + 1 + OBJECTIVES, count)
    return _pretrained(
        np.array(jax.random.PRNGKey(seed)), shown.prompt, shown.tokens, steps=steps, batch=batch
    )


@functools.partial(jax.jit, static_argnames=("steps", "batch"))
def _pretrained(key: Key, prompt: Array, tokens: Array, steps: int, batch: int) -> PyTree:
    params = MODEL.init(key, jnp.zeros(PROMPT + LENGTH - 1, jnp.int32))
    optimiser = optax.adam(optax.linear_schedule(PRETRAINING_RATE, 0, steps))

    def loss(params: PyTree, chosen: Array) -> Array:
        return -jax.vmap(log_likelihood, (None, 0, 0))(params, prompt[chosen], tokens[chosen]).mean()

    def step(turn: Array, carried: tuple) -> tuple:
        chosen = jax.random.randint(jax.random.fold_in(key, turn), (batch,), 0, len(tokens))
        params, state = carried
        updates, state = optimiser.update(jax.grad(loss)(params, chosen), state)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, optimiser.init(params)))[0]


class Taught(NamedTuple):
    """What DPO learns from: the pairs of n readers, and the reference's margins of them."""

    pairs: Pairs
    reference: Array


def taught(params: PyTree, pairs: Pairs, *, told: bool = False) -> Taught:
    """Pairs with the margins of the reference ``params``; ``told``: prompts say which reader they are for."""
    if told:
        prompt = pairs.prompt.copy()
        prompt[..., 0] = ANYONE + 1 + np.arange(len(prompt))[:, None]
        pairs = pairs._replace(prompt=prompt)
    return Taught(pairs, margins(for_all(params, len(pairs.sign)), pairs.prompt, pairs.pair))


class DPO(NamedTuple):
    """Settings of the learner."""

    beta: float = 0.1
    """How far a policy goes from the reference for what a pair tells."""
    batch: int = 32
    """Pairs of a gradient step."""


@functools.partial(jax.jit, static_argnames="batch")
def _side_by_side(
    data: Taught, told: Taught, labels: Array, is_told: Array, rate: Array, start: PyTree, key: Key,
    share: int, beta: float, batch: int,
) -> PyTree:  # fmt: skip
    n = labels.shape[-1]

    def loss(params: PyTree, prompt: Array, pair: Array, sign: Array, offset: Array) -> Array:
        lead = jax.vmap(margin, (None, 0, 0))(params, prompt, pair) - offset
        return jax.nn.softplus(-sign * beta * lead).mean()

    def method(labels: Array, is_told: Array, rate: Array) -> PyTree:
        turns, optimiser = jnp.sort(labels), optax.adam(rate)
        fresh = start, optimiser.init(start)

        def unit(carried: PyTree, turn: Array) -> tuple[PyTree, PyTree]:
            group = turns[turn]
            begins = (turn == 0) | (turns[turn - 1] != group)
            carried = jax.tree.map(lambda new, old: jnp.where(begins, new, old), fresh, carried)

            def step(i: Array, carried: PyTree) -> PyTree:
                reader_key, pair_key = jax.random.split(jax.random.fold_in(key, turn * share + i))
                odds = jnp.where(labels == group, 0.0, -jnp.inf)
                reader = jax.random.categorical(reader_key, odds, shape=(batch,))
                which = jax.random.randint(pair_key, (batch,), 0, data.reference.shape[1])
                shown = jax.tree.map(
                    lambda a, b: jnp.where(is_told, a[reader, which], b[reader, which]), told, data
                )
                pairs, params, state = shown.pairs, *carried
                slope = jax.grad(loss)(params, pairs.prompt, pairs.pair, pairs.sign, shown.reference)
                updates, state = optimiser.update(slope, state)
                return optax.apply_updates(params, updates), state

            carried = jax.lax.fori_loop(0, share, step, carried)
            return carried, carried[0]

        _, after = jax.lax.scan(unit, fresh, jnp.arange(n))
        last = jnp.searchsorted(turns, labels, side="right") - 1
        return jax.tree.map(lambda x: x[last], after)

    return jax.vmap(method)(labels, is_told, rate)


def side_by_side(
    data: Taught,
    told: Taught,
    labels: np.ndarray,
    is_told: np.ndarray,
    rate: np.ndarray,
    start: PyTree,
    key: Key,
    share: int,
    settings: DPO,
) -> PyTree:
    """Policies of L partitions by DPO, all in one program: in each, groups take turns, by their size.

    Every partition makes n times ``share`` gradient steps of as many pairs, drawn from its group's readers
    alike; a group of s readers makes s times ``share`` of them, from ``start`` on.

    Args:
        data: what is learnt from.
        told: the same with prompts that say which reader they are for.
        labels: int [L, n], the groups.
        is_told: bool [L], which of them train policies that are told.
        rate: float [L], step sizes of Adam.
        start: parameters that every group begins with.
        key: raw PRNG key; the same for all.
        share: gradient steps a reader.
        settings: of DPO.

    Returns:
        Parameters of every reader's policy, leaves [L, n, ...].
    """
    return _side_by_side(
        data, told, labels, is_told, rate, start, key, share, settings.beta, batch=settings.batch
    )
