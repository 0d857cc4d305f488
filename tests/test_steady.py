"""Results do not depend on the number of cores."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from pgx_jax import steady
from pgx_jax.steady import compiled, in_order, one_blas_thread

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]

RUN = """
import json, os, pickle, sys
os.sched_setaffinity(0, json.loads(sys.argv[1]))  # before the threads are started
import pgx_jax
from pgx_jax.compare.results import to_plain
family, config = pickle.load(open(sys.argv[2], "rb"))
run = pgx_jax.run(pgx_jax.make_family("points", **family), config)
plain = to_plain(run.results)
del plain["timings"]
print(json.dumps(plain, sort_keys=True, default=float))
"""


def products(key):
    """Weights after some steps down the gradient: sums over a batch that Eigen would split."""
    x = jax.random.normal(key, (1280, 4))
    params = [jax.random.normal(key, shape) / 8 for shape in ((4, 64), (64, 64), (64, 2))]

    def loss(params):
        out = x
        for kernel in params[:-1]:
            out = jax.vmap(lambda row, kernel=kernel: jax.nn.relu(row @ kernel))(out)
        return jnp.mean((out @ params[-1]) ** 2) + jnp.mean(
            jnp.linalg.cholesky(params[1].T @ params[1] + jnp.eye(64))
        )

    def step(params, _):
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)), None

    return jax.lax.scan(step, params, None, length=3)[0]


def test_the_same_is_computed():
    key = jax.random.PRNGKey(0)
    plain = jax.jit(products)(key)
    for other in (jax.jit(in_order(products))(key), compiled(products)(key)):
        for x, y in zip(plain, other, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about processors")
def test_all_products_are_laid_out_along_what_is_summed():
    """The bodies of loops among them: the compiled program has no product that Eigen would split."""
    text = jax.jit(in_order(products)).lower(jax.random.PRNGKey(0)).compile().as_text()
    numbers = [line for line in text.splitlines() if " dot(" in line and "f32" in line]
    assert numbers and all("lhs_contracting_dims={1}" in line for line in numbers)
    text = jax.jit(products).lower(jax.random.PRNGKey(0)).compile().as_text()
    assert any("lhs_contracting_dims={0}" in line for line in text.splitlines() if " dot(" in line)


def gram(x):
    return x.T @ x


@jax.custom_jvp
def own_derivative(x):
    return gram(x)


@jax.custom_vjp
def own_gradient(x):
    return gram(x)


own_derivative.defjvp(lambda x, t: (gram(x[0]), t[0].T @ x[0] + x[0].T @ t[0]))
own_gradient.defvjp(lambda x: (gram(x), x), lambda x, g: (x @ (g + g.T),))


@pytest.mark.parametrize("function", [gram, jax.checkpoint(gram), own_derivative, own_gradient])
def test_products_within_other_primitives_are_laid_out_alike(function):
    x = jax.random.normal(jax.random.PRNGKey(0), (1280, 64))
    for f in (function, jax.grad(lambda x: function(x).sum())):
        text = jax.jit(in_order(f)).lower(x).as_text()
        lines = [line for line in text.splitlines() if "dot_general" in line]
        assert lines and not any("contracting_dims = [0]" in line for line in lines)
        np.testing.assert_allclose(jax.jit(in_order(f))(x), jax.jit(f)(x), rtol=1e-4, atol=1e-3)


def test_inner_programs_are_rewritten_once():
    inner = jax.jit(gram)

    def thrice(x):
        return inner(jnp.clip(inner(jnp.clip(inner(x), 0, 1)), 0, 1))

    text = jax.jit(in_order(thrice)).lower(jnp.eye(4)).as_text()
    assert text.count("func.func private @gram") == text.count("func.func private @clip") == 1
    assert text.count("call @gram") == 3 and "contracting_dims = [0]" not in text


@pytest.mark.parametrize("solve", [jnp.linalg.solve, lambda a, b: jax.scipy.sparse.linalg.cg(a, b)[0]])
def test_systems_of_equations_are_solved_alike(solve):
    """Their programs stand in a named tuple among the parameters."""
    a, b = jnp.eye(3) + 0.1, jnp.arange(3.0)
    for f in (lambda b: solve(a, b), lambda b: solve(a.T @ a, b), jax.grad(lambda b: solve(a, b).sum())):
        np.testing.assert_allclose(jax.jit(in_order(f))(b), jax.jit(f)(b), rtol=1e-5, atol=1e-6)


def test_static_and_donated_arguments_are_those_of_jit():
    @compiled
    def double(x):
        return {"twice": 2 * x}

    def power(x, *, exponent):
        return x**exponent if isinstance(exponent, int) else None

    assert double(jnp.ones(3))["twice"].tolist() == [2, 2, 2]
    assert compiled(power, static_argnames="exponent")(jnp.float32(3), exponent=2) == 9


def test_a_gpu_tries_no_kernels_for_products_in_full_float32(monkeypatch):
    asked, jit = [], jax.jit

    def recorded(function, **settings):
        asked.append(settings.get("compiler_options"))
        return jit(function, **settings)

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    double = compiled(lambda x: 2 * x)
    steady._options("gpu", False, True)
    monkeypatch.setattr(jax, "jit", recorded)
    assert double(jnp.ones(3)).tolist() == [2, 2, 2] and asked == [None]
    with jax.default_matmul_precision("float32"):
        assert double(jnp.ones(3)).tolist() == [2, 2, 2] and asked == [None, steady.FULL]
    assert double(jnp.ones(3)).tolist() == [2, 2, 2] and len(asked) == 2


def test_within_another_program_or_none_it_is_the_function_itself():
    @compiled
    def outer(x):
        return inner(x) + 1

    @compiled
    def inner(x):
        return x @ x

    x = jnp.arange(9.0).reshape(3, 3)
    assert (outer(x) == x @ x + 1).all()
    assert (outer.programs, inner.programs) == (1, 0)
    assert jnp.allclose(jax.vmap(inner)(x[None]), x @ x)
    assert jnp.allclose(jax.grad(lambda x: outer(x).sum())(x), jax.grad(lambda x: (x @ x).sum())(x))
    with jax.disable_jit():
        assert (outer(x) == x @ x + 1).all()


def test_arguments_of_other_classes_are_never_taken_for_one_another():
    outer = compiled(lambda setting, x: setting.of(x))
    part = compiled(lambda setting, x: setting.of(x))
    within = compiled(lambda x, setting: 2 * part(setting, x))
    for number in range(60):  # jax.jit of jaxlib 0.10 is wrong in a sixth of all cases

        @struct.dataclass
        class Setting:
            share: float = 1.0

            def of(self, x, number=number):
                return self.share * x + number

        assert (outer(Setting(), 1.0), within(1.0, Setting())) == (1 + number, 2 + 2 * number)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about processors")
@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (64, 64), (1, 1), (300, 150)])
def test_orthogonal_initialisations_are_jaxs_without_lapack(shape):
    """Which may wait for ever where there are several at once."""
    keys = jax.random.split(jax.random.PRNGKey(1), 3)
    draw = jax.vmap(lambda key: jax.nn.initializers.orthogonal(2.0)(key, shape))
    assert "lapack" not in jax.jit(in_order(draw)).lower(keys).as_text()
    np.testing.assert_allclose(compiled(draw)(keys), jax.jit(draw)(keys), atol=2e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about processors")
def test_qr_factors_are_factors():
    matrix = jax.random.normal(jax.random.PRNGKey(0), (2, 9, 6))
    q, r = compiled(lambda x: tuple(jnp.linalg.qr(x)))(matrix)
    np.testing.assert_allclose(jnp.einsum("bij,bjk->bik", q, r), matrix, atol=1e-5)
    np.testing.assert_allclose(jnp.einsum("bij,bik->bjk", q, q), np.stack([np.eye(6)] * 2), atol=1e-5)
    assert not np.tril(r, -1).any()
    full = compiled(lambda x: jnp.linalg.qr(x, mode="complete")[0])(matrix)  # LAPACK's, as it is
    full.block_until_ready()
    np.testing.assert_allclose(full, jnp.linalg.qr(matrix, mode="complete")[0], atol=1e-5)


def test_one_thread_only_while_it_runs():
    from threadpoolctl import threadpool_info

    def threads():
        return [found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"]

    before = threads()
    assert set(one_blas_thread(threads)()) == {1}
    assert threads()[: len(before)] == before


@pytest.mark.skipif(len(CORES) < 2, reason="this machine (or what may be used of it) has one core")
def test_one_core_and_two_give_equal_results(small_settings, tmp_path):
    """From training to results.json, with batches and layers that are large enough to be split."""
    family, config = small_settings
    ppo = dataclasses.replace(config.ppo, num_steps=100, epochs=1)
    policy = dataclasses.replace(config.policy, hidden=(64, 64))
    config = dataclasses.replace(
        config, policy=policy, ppo=ppo, compare="none", steps_per_task=8000, looks=1, test_tasks=0
    )
    settings = tmp_path / "settings"
    settings.write_bytes(pickle.dumps((family, config)))
    found = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(cores), str(settings)],
            stdout=subprocess.PIPE,
            text=True,
            # What is compiled for one number of cores is not for the other one.
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / str(len(cores)))},
        )
        for cores in (CORES[:1], CORES[:2])
    ]
    one, two = (process.communicate()[0].splitlines()[-1] for process in found)
    assert json.loads(one)["methods"]
    assert one == two


def drawn(key, number):
    """Bits, keys and what is made of them, of single keys and of arrays of keys."""
    keys = jax.random.split(key, (5, 2))
    folded = jax.vmap(jax.random.fold_in)(keys[:, 0], jnp.arange(5) + number)
    numbered = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(3))
    typed = jax.random.fold_in(jax.random.key(7), number)
    return (
        folded,
        numbered,
        jax.random.key_data(typed),
        jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (3,))))(keys),
        jax.random.randint(keys[0, 0], (7,), 0, 5),
        jax.random.bits(keys[1, 0], (3,), "uint8"),
        jax.random.permutation(key, 9),
        jax.random.uniform(typed, (4,)),
        jax.random.uniform(jax.random.key(1, impl="rbg"), (3,)),
    )


def test_random_bits_are_those_of_jax_without_its_loops():
    key = jax.random.PRNGKey(3)
    plain, program = drawn(key, 2), jax.jit(in_order(drawn))
    for x, y in zip(plain, program(key, 2), strict=True):
        np.testing.assert_array_equal(x, y)

    def loops(function):
        return jax.jit(function).lower(key, 2).compile().as_text().count(" while(")

    assert loops(in_order(drawn)) == 0
    assert loops(drawn) > 0 or jax.default_backend() != "cpu"


def test_programs_compiled_quickly_compute_the_same():
    for x, y in zip(
        compiled(products)(jax.random.PRNGKey(0)),
        compiled(products, quick=True)(jax.random.PRNGKey(0)),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_number_each_of_split_keys_is_soon_compiled(shape):
    """Rounds that ran on into the kernel of what is drawn would keep jaxlib 0.11 for days."""

    @compiled
    def numbers(key):
        return jax.vmap(lambda key: jax.random.uniform(key, shape))(jax.random.split(key, 3))

    assert numbers(jax.random.PRNGKey(0)).shape == (3, *shape)


def test_flags_of_the_compiler_go_before_how_quickly_programs_are_compiled(monkeypatch):
    name = "xla_backend_optimization_level"
    monkeypatch.setenv("XLA_FLAGS", f"--{name}=3")
    assert name in steady.QUICK and name not in steady._unsaid(steady.QUICK)
    monkeypatch.setenv("XLA_FLAGS", f"--{name}_of_others=3")
    assert steady._unsaid(steady.QUICK) == steady.QUICK
