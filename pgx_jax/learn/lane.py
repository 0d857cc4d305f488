"""What a lane is: rows that train side by side; and how rows get into and out of its arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.learn.learner import Learner
from pgx_jax.learn.policy import Policy
from pgx_jax.learn.updating import Earned
from pgx_jax.steady import compiled
from pgx_jax.tasks import TaskFamily
from pgx_jax.types import Agent, Array, PyTree


class Outcome(NamedTuple):
    """What a segment led to, of all slots. The arrays may still be under way: reading them waits."""

    earned: Earned
    """float [C, T, n]: by task, of the updates that were done; T is at least their number."""
    measured: Float[Array, "C T M"]
    """float [C, T, M]: what the learner measured of each."""
    finite: Bool[Array, "C"]
    """bool [C]: whether all numbers of the agent are finite."""
    spoilt: Bool[Array, "C n"]
    """bool [C, n]: tasks that gave rewards or observations which are not."""


class Saved(NamedTuple):
    """All that is needed to go on with one row."""

    update: int
    """Updates done."""
    leaves: list[np.ndarray]
    """Of the row's state, and of what else its engine needs (of its agent, once it is done)."""


class Lane(Protocol):
    """C rows that train side by side, one a slot."""

    segment: int
    """Updates between two looks at the rows."""

    @property
    def ahead(self) -> int:
        """Segments that may be under way, unread, when another one begins: 1 where something would idle while
        the outcome of the last one is read, else 0."""

    @staticmethod
    def rows_per_call() -> int:
        """C where nobody says otherwise, on this platform."""

    def __init__(self, policy: Policy, learner: Learner, family: TaskFamily, width: int): ...

    def enter(self, slot: int, member: np.ndarray, agent: Agent, key: Array) -> None:
        """Put a row at the start of its training into a slot; the first one fills all slots.

        Raises:
            DataError: an agent that cannot act, as far as that can be told here.
        """

    def advance(self, member: np.ndarray, total: np.ndarray, count: int, active: np.ndarray) -> Outcome:
        """Begin ``count`` updates of the ``active`` rows.

        Args:
            member: bool [C, n].
            total: int [C], updates of the rows' budgets.
            count: 1 to ``segment``.
            active: bool [C]; what comes of the others means nothing.
        """

    def agents(self, slots: Sequence[int]) -> Agent:
        """The agents of S slots as all that has begun will leave them, whatever comes after; leaves
        [S, ...] (or longer), which may still be under way."""

    def save(self, slots: Sequence[int]) -> list[Saved]:
        """What is needed to go on with these rows later: the states of the device's environments, and the
        seeds and actions by which those of the host come to theirs again."""

    def restore(self, slot: int, saved: Saved) -> None:
        """Go on with a saved row, in the slot where it has just entered."""

    def close(self) -> None:
        """Free what the lane holds."""


@partial(compiled, static_argnames=("width",))
def fill(row: PyTree, width: int) -> PyTree:
    """A row's record for each of C slots, leaves [C, ...]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (width, *x.shape)), row)


def put(rows: PyTree, row: PyTree, slot: int) -> PyTree:
    """The records [C, ...] (given away) with another row in one slot."""
    return _put(rows, row, np.arange(len(jax.tree.leaves(rows)[0])) == slot)


@partial(compiled, quick=True, donate_argnames=("rows",))
def _put(rows: PyTree, row: PyTree, here: Bool[Array, "C"]) -> PyTree:
    """The records with a row in the slot that is ``here``."""

    def with_row(x: Array, y: Array) -> Array:
        return jnp.where(here.reshape(-1, *[1] * (x.ndim - 1)), jnp.asarray(y, x.dtype), x)

    return jax.tree.map(with_row, rows, row)


def pick(rows: PyTree, slots: Sequence[int]) -> PyTree:
    """The records of S slots, in arrays of their own, which may still be under way.

    They are followed by some more up to a power of 2, so that there are few programs for all S.
    """
    return _pick(rows, np.resize(slots, 1 << (len(slots) - 1).bit_length()))


@compiled
def _pick(rows: PyTree, slots: Int[Array, "S"]) -> PyTree:
    return jax.tree.map(lambda x: x[slots], rows)


def saved_rows(rows: PyTree, update: Array, slots: Sequence[int]) -> list[Saved]:
    """Of records [C, ...] that have done ``update`` int [C] updates, those of some slots."""
    leaves, update = [np.asarray(_plain(x)) for x in jax.tree.leaves(rows)], np.asarray(update)
    return [Saved(int(update[slot]), [np.array(x[slot]) for x in leaves]) for slot in slots]


def restored_row(saved: Saved, like: PyTree) -> PyTree:
    """The record of one row again, of the structure and types of records [C, ...]."""
    present, structure = jax.tree.flatten(like)
    pairs = zip(saved.leaves, present, strict=True)
    return jax.tree.unflatten(structure, [_typed(x, y) for x, y in pairs])


def _plain(x: Array) -> Array:
    """The array, or the numbers of typed PRNG keys, which environments may have in their states."""
    return jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def _typed(plain: np.ndarray, x: Array) -> Array:
    """What `_plain` has made plain, of the type of ``x`` again."""
    typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(jnp.asarray(plain), impl=jax.random.key_impl(x)) if typed else plain
