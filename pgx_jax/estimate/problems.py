"""The weighted logistic regressions as arrays: the shared data, and which problem reads what."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from pgx_jax.mesh import CUT, CUT_BY_COLUMNS, mesh_size
from pgx_jax.types import Array


class Data(NamedTuple):
    """The transitions that enter the losses."""

    g: Float[Array, "U M d"]
    """float [U, M, d]: gradient features; rows beyond a source's own are arbitrary but finite."""
    a: Float[Array, "n M"]
    """float [n, M]: signed weights y w / N_i; 0 beyond a source's own rows."""
    source: Int[Array, "n"]
    """int [n]: the source that each task reads."""

    def times(self, x: Float[Array, "n c d"]) -> Float[Array, "n c M"]:
        """g . x of every task's rows: [n, c, d] -> [n, c, M]."""
        if len(self.g) == 1:
            return jnp.einsum("ncd,Md->ncM", x, self.g[0])
        return jnp.einsum("ncd,nMd->ncM", x, self._of_task())

    def transposed_times(self, r: Float[Array, "n c M"]) -> Float[Array, "n c d"]:
        """sum_t r_t g_t over every task's rows: [n, c, M] -> [n, c, d]."""
        if len(self.g) == 1:
            return jnp.einsum("ncM,Md->ncd", r, self.g[0])
        return jnp.einsum("ncM,nMd->ncd", r, self._of_task())

    def gram(self, weight: Float[Array, "n M"]) -> Float[Array, "d d"]:
        """sum_i sum_t w_it g_it g_it^T: [d, d] for weights [n, M] that are not negative."""
        g, weight = (self.g, weight.sum(0)[None]) if len(self.g) == 1 else (self._of_task(), weight)
        rows = (g * jnp.sqrt(weight)[..., None]).reshape(-1, g.shape[-1])
        return rows.T @ rows

    def _of_task(self) -> Float[Array, "n M d"]:
        """float [n, M, d]: the features that each task reads (one source alone is never copied)."""
        return self.g if len(self.g) == len(self.a) else self.g[self.source]


class TaskStatistics(NamedTuple):
    """The quadratic model of every task's loss at theta*, which replaces the data near it."""

    b: Float[Array, "n d"]
    """float [n, d]: minus the gradient at 0, 1/2 G^T a / N_fit."""
    h: Float[Array, "n d d"]
    """float [n, d, d]: the curvature at 0, 1/4 G^T |a| G / N_fit, an upper bound elsewhere."""


LEAST_SUBSETS, SLOT_MULTIPLE = 16, 8
"""Problems are padded to this number, doubled until they fit, and the slots of a task to a multiple, so that
similar designs share one compiled program."""


class Problems(NamedTuple):
    """m subsets, listed by task; the last may be empty ones, whose solution is 0.

    They can be cut into parts, as many as the mesh has devices: subsets in order, and the columns of each
    part list its own, as they are numbered there.
    """

    slots: Int[Array, "n c"]
    """int [n, c]: the subsets that contain each task; m (of a part) where there are no more."""
    size: Int[Array, "m"]
    """int [m]: number of tasks of each subset (1 of an empty one), by which sums over them are divided; 1 of
    all where the losses of a subset are added up instead of averaged."""

    def spread(self, x: Float[Array, "m *shape"]) -> Float[Array, "n c *shape"]:
        """[m, ...] per problem -> [n, c, ...] per slot (0 in empty slots)."""
        return jnp.take(x, self.slots, axis=0, mode="fill", fill_value=0)

    def collect(self, x: Float[Array, "n c *shape"]) -> Float[Array, "m *shape"]:
        """[n, c, ...] per slot -> [m, ...]: mean over the tasks of each problem (or sum, see ``size``)."""
        m = self.size.shape[0]
        total = jnp.zeros((m, *x.shape[2:]), x.dtype).at[self.slots].add(x, mode="drop")
        return total / self.size.reshape(m, *[1] * (total.ndim - 1))

    def listed(self) -> Int[np.ndarray, "n c"]:
        """The slots with the subsets as they are numbered in all parts together; m or more in empty ones."""
        each = len(self.size) // mesh_size()
        slots = np.asarray(self.slots).reshape(len(self.slots), mesh_size(), -1)
        found = np.where(slots < each, slots + each * np.arange(mesh_size())[:, None], len(self.size))
        return found.reshape(len(slots), -1)


CUT_PROBLEMS = Problems(CUT_BY_COLUMNS, CUT)
"""How problems lie on the mesh."""


def make_problems(member: Bool[Array, "m n"], *, summed: bool = False) -> Problems:
    """List bool member [m, n] by task, and empty problems after them; ``summed`` adds the losses of a
    subset up instead of averaging them."""
    member = np.asarray(member, bool)
    each, n = LEAST_SUBSETS, member.shape[1]
    while each * mesh_size() < len(member):
        each *= 2
    count = each * mesh_size() - len(member)
    cut = np.pad(member, ((0, count), (0, 0))).reshape(mesh_size(), each, n)
    width = max(1, cut.sum(1).max())
    slots = np.full((n, mesh_size(), width + -width % SLOT_MULTIPLE), each, np.int32)
    for part, task in np.ndindex(mesh_size(), n):
        subsets = np.flatnonzero(cut[part, :, task])
        slots[task, part, : len(subsets)] = subsets
    size = np.ones(len(member), int) if summed else member.sum(1)
    size = np.pad(size, (0, count), constant_values=1)
    return Problems(slots.reshape(n, -1), size.astype(np.int32))


def logits(theta: Float[Array, "m d"], data: Data, problems: Problems) -> Float[Array, "n c M"]:
    """z = g . D of each slot: float [n, c, M] for theta [m, d]."""
    return data.times(problems.spread(theta))


def data_loss(z: Float[Array, "n c M"], data: Data, problems: Problems) -> Float[Array, "m"]:
    """The losses without the ridge: float [m]."""
    a = data.a[:, None, :]
    u = -jnp.sign(a) * z
    softplus = jnp.maximum(u, 0) + jnp.log1p(jnp.exp(-jnp.abs(u)))
    return problems.collect((jnp.abs(a) * softplus).sum(-1))


def residual(z: Float[Array, "n c M"], data: Data) -> Float[Array, "n c M"]:
    """Minus the derivative of the data loss by each logit, y w sigma(-y z) / N_i: float [n, c, M]."""
    a = data.a[:, None, :]
    return a * jax.nn.sigmoid(-jnp.sign(a) * z)


def pull_back(r: Float[Array, "n c M"], data: Data, problems: Problems) -> Float[Array, "m d"]:
    """Mean over tasks of sum_t r_t g_t: float [m, d] for r [n, c, M]."""
    return problems.collect(data.transposed_times(r))
