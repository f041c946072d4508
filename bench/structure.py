"""Jacobians, Hessians and determinants at the cost of their structure, beside JAX, PyTorch, CasADi, asdex and NumPy by hand.

Every row computes the same thing twice, in one process on one thread, and compares both results to 1e-9 before it times them in
turns, in processor time, so that other processes count as little as they can. What a peer compiles is compiled before, and its
arrays are its own already; compile times stand apart. `pip install gradwire[bench]` brings the peers; those that are not there
are named and left out.
"""

from __future__ import annotations

from _measure import Row, compare, first_call, options, show_rows, time_once  # isort: skip  # sets thread counts before NumPy is imported
from _peers import casadi, flat_arrays, asdex, in_torch, jax, jitted, mpmath, say_missing, torch, versions  # isort: skip  # and JAX's

import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import scipy.sparse
import strategy
from _test_programs import differentiable

import gradwire as gw
from gradwire_core.engine import Output, compile
from gradwire_core.structure.strategy import DENSE_FORWARD, DENSE_REVERSE, forcing
from gradwire_core.transforms import Transform

jnp = None if jax is None else jax.numpy


def agree(mine, theirs):
    """Check that two results hold the same arrays, to 1e-9 of the largest element."""
    for one, other in zip(flat_arrays(mine), flat_arrays(theirs), strict=True):
        largest = max(1.0, float(np.max(np.abs(other), initial=0.0)))
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-9, atol=1e-9 * largest)


def row(name, ours, peer, theirs, *, at_most=None, same=None):
    """Compare two calls that return arrays; `same` makes the arrays of ours from what it returns."""
    check = agree if same is None else lambda mine, other: agree(same(mine), other)
    return compare(name, ours, peer, theirs, agree=check, at_most=at_most)


# -- Hessians ----------------------------------------------------------------------------------------------------------------


def factorization() -> Iterator[Row]:
    """|T - U V^T|^2, its Hessian in U: 2 V^T V, once."""
    rng = np.random.default_rng(0)
    arrays = {count: [rng.normal(size=(count, length)) for length in (10, 10, count)] for count in (100, 200, 1000)}
    loss = lambda u, v, t: ((t - u @ v.T) ** 2).sum()
    structured, dense = gw.hessian(loss, layout="structured"), gw.hessian(loss)
    v = arrays[1000][1]

    def block(result):
        ((pattern, factors),) = result.terms
        assert pattern.out_labels[0] == pattern.in_labels[0]
        assert len(factors) == 1
        return factors[0]

    name = "|T - U V^T|^2, Hessian in U, k=10"
    by_hand = lambda: 2.0 * (v.T @ v)
    yield row(f"{name} n=1000: structured", lambda: structured(*arrays[1000]), "NumPy, its block", by_hand, same=block)
    peers = []
    if jax is not None:
        peers.append((200, "jax.jit(jax.hessian), dense", jitted(jax.hessian(loss), *arrays[200])))
    if torch is not None:  # for half the size, as it takes so long
        peers.append((100, "torch.func.hessian, dense", in_torch(torch.func.hessian(loss), *arrays[100])))
    for count, peer, theirs in peers:
        ours = lambda given=arrays[count]: structured(*given)
        yield row(f"{name} n={count}: structured", ours, peer, theirs, at_most=1e-3, same=lambda result: result.todense())
        yield row(f"{name} n={count}: dense", lambda given=arrays[count]: dense(*given), peer, theirs, at_most=1e-2)


def logistic_hessian_by_hand(w, x, y):
    chances = 1.0 / (1.0 + np.exp(y * (x @ w)))
    return x.T @ (x * (chances * (1.0 - chances) / len(y))[:, None])


def logistic() -> Iterator[Row]:
    """The Hessian of logistic regression: one product of matrices, X^T diag(d) X, of which one half is needed."""
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(2000, 1000)), np.sign(rng.normal(size=2000)), rng.normal(size=1000) / 30
    loss = lambda np: lambda w, x, y: np.mean(np.log1p(np.exp(-y * (x @ w))))
    hessian = gw.hessian(loss(np))
    ours = lambda: hessian(w, x, y)
    scaled = x * rng.uniform(size=2000)[:, None]
    name = "logistic regression 2000 x 1000, Hessian"
    if jax is not None:
        yield row(name, ours, "jax.jit(jax.hessian)", jitted(jax.hessian(loss(jnp)), w, x, y), at_most=1.0)
    by_hand = lambda: logistic_hessian_by_hand(w, x, y)
    yield row(name, ours, "NumPy by hand", by_hand, at_most=1.2)
    yield compare(name, ours, "NumPy, its one product", lambda: x.T @ scaled, at_most=1.2)
    yield compare(name, ours, "NumPy, as much by syrk", lambda: scaled.T @ scaled)


def network_hessian_by_hand(a, b, x, t):
    """The four blocks for mean((tanh(x a) b - t)^2), by block matrix products."""
    inputs, hidden, outputs = a.shape[0], a.shape[1], b.shape[1]
    h = np.tanh(x @ a)
    error, slope, scale = h @ b - t, 1.0 - h * h, 2.0 / t.size
    paths = (x[:, :, None] * slope[:, None, :]).reshape(len(x), -1)
    first = (paths.T @ paths).reshape(inputs, hidden, inputs, hidden) * (b @ b.T)[:, None, :]
    curved = error @ b.T * (-2.0 * h * slope)
    each = np.arange(hidden)
    first[:, each, :, each] += np.matmul((x[:, :, None] * curved[:, None, :]).transpose(2, 1, 0), x)
    mixed = (paths.T @ h).reshape(inputs, hidden, hidden, 1) * b[None, :, None, :]
    mixed[:, each, each, :] += (paths.T @ error).reshape(inputs, hidden, outputs)
    last = np.zeros((hidden, outputs, hidden, outputs))
    np.einsum("kolo->okl", last)[...] = scale * (h.T @ h)
    mixed *= scale
    return (scale * first, mixed), (mixed.transpose(2, 3, 0, 1).copy(), last)


def network() -> Iterator[Row]:
    """The Hessian of a small net: truly dense."""
    rng = np.random.default_rng(0)
    loss = lambda np: lambda a, b, x, t: np.mean((np.tanh(x @ a) @ b - t) ** 2)
    for inputs, hidden, outputs in ((5, 8, 4), (8, 10, 3), (12, 12, 4)):
        x, t = rng.normal(size=(1000, inputs)), rng.normal(size=(1000, outputs))
        a, b = rng.normal(size=(inputs, hidden)) / 3, rng.normal(size=(hidden, outputs)) / 3
        hessian = gw.hessian(loss(np), argnums=(0, 1))
        call = lambda arrays=(a, b, x, t), hessian=hessian: hessian(*arrays)
        by_hand = lambda arrays=(a, b, x, t): network_hessian_by_hand(*arrays)
        name = f"net {inputs}-{hidden}-{outputs} on 1000 samples, Hessian ({a.size + b.size} params)"
        yield row(name, call, "NumPy by hand", by_hand, at_most=1.2)
        if jax is not None:
            yield row(name, call, "jax.jit(jax.hessian)", jitted(jax.hessian(loss(jnp), argnums=(0, 1)), a, b, x, t), at_most=1.0)


# -- dense and structured Jacobians ------------------------------------------------------------------------------------------


def jacobian_peers(function, torch_function, *arrays):
    """Both dense modes of JAX, and PyTorch's better one."""
    if jax is not None:
        yield "jax.jit(jax.jacfwd), dense", jitted(jax.jacfwd(function), *arrays)
        yield "jax.jit(jax.jacrev), dense", jitted(jax.jacrev(function), *arrays)
    if torch is not None:
        yield "torch.func.jacfwd, dense", in_torch(torch.func.jacfwd(torch_function), *arrays)


def elementwise() -> Iterator[Row]:
    """An elementwise function, n = 2000: a diagonal."""
    x = np.linspace(-1.0, 1.0, 2000)
    for name, function in {"sin": lambda np: np.sin, "x sin(x)": lambda np: lambda x: x * np.sin(x)}.items():
        structured = gw.jacobian(function(np), layout="structured")
        for peer, theirs in jacobian_peers(jnp and function(jnp), torch and function(torch), x):
            same = lambda result: result.todense()
            name_of = f"{name}, n=2000: structured"
            yield row(name_of, lambda structured=structured: structured(x), peer, theirs, at_most=1 / 20, same=same)


def product() -> Iterator[Row]:
    """X W^T with S = N = M = 64: W, once, or 128 MiB of it."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(64, 64)), rng.normal(size=(64, 64))
    function = lambda x, w: x @ w.T
    structured, dense = gw.jacobian(function, layout="structured"), gw.jacobian(function)
    for peer, theirs in jacobian_peers(function, function, x, w):
        same = lambda result: result.todense()
        yield row("X W^T, 64^4: structured", lambda: structured(x, w), peer, theirs, at_most=1 / 100, same=same)

    def entries():
        result = np.zeros((64, 64, 64, 64))
        np.einsum("snsm->snm", result)[...] = w
        return result

    yield row("X W^T, 64^4: dense", lambda: dense(x, w), "NumPy, zeros and its entries", entries)
    full = entries()
    written = lambda: np.array(full)
    yield row("X W^T, 64^4: dense", lambda: dense(x, w), "NumPy, written once", written, at_most=1.5)


# -- sparse Jacobians --------------------------------------------------------------------------------------------------------


def rosenbrock(x, np):
    return np.concatenate([10.0 * (x[1:] - x[:-1] ** 2), 1.0 - x[:-1]])


def bratu(x, np):
    """The residual of -laplace u = 6 exp(u) on a square, by finite differences, with zeros around."""
    side = round(len(x) ** 0.5)
    u = np.pad(np.reshape(x, (side, side)), 1)
    neighbours = u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2]
    return np.reshape(4.0 * u[1:-1, 1:-1] - neighbours - 6.0 / (side + 1) ** 2 * np.exp(u[1:-1, 1:-1]), (-1,))


def casadi_rosenbrock(x):
    return casadi.vertcat(10.0 * (x[1:] - x[:-1] ** 2), 1.0 - x[:-1])


def casadi_bratu(x):
    side = 100
    u = casadi.reshape(x, side, side)
    rows, columns = casadi.SX(1, side), casadi.SX(side, 1)
    neighbours = casadi.vertcat(u[1:, :], rows) + casadi.vertcat(rows, u[:-1, :])
    neighbours += casadi.horzcat(u[:, 1:], columns) + casadi.horzcat(columns, u[:, :-1])
    return casadi.reshape(4.0 * u - neighbours - 6.0 / (side + 1) ** 2 * casadi.exp(u), -1, 1)


def in_casadi(function, x):
    """Return a call that evaluates CasADi's sparse Jacobian into memory of ours, and what reads it as a SciPy array.

    CasADi numbers a matrix by columns; Bratu's residual is symmetric in its axes, so that this is a matter of names.
    """
    variable = casadi.SX.sym("x", len(x))
    jacobian = casadi.Function("jacobian", [variable], [casadi.jacobian(function(variable), variable)])
    pattern = jacobian.sparsity_out(0)
    values = np.zeros(pattern.nnz())
    buffer, evaluate = jacobian.buffer()
    buffer.set_arg(0, memoryview(x))
    buffer.set_res(0, memoryview(values))
    rows, columns = np.array(pattern.row()), np.array(pattern.colind())

    def call():
        evaluate()
        return values

    keep = (buffer, jacobian)
    return call, lambda values, keep=keep: scipy.sparse.csc_array((values, rows, columns), shape=pattern.shape)


def in_asdex(function, x):
    """Return a call of asdex's Jacobian, compiled, and what reads its BCOO as a SciPy array."""
    held = jnp.asarray(x)
    compiled = jax.jit(asdex.jacobian(function, held))
    read = lambda found: scipy.sparse.coo_array((np.asarray(found.data), np.asarray(found.indices).T), shape=found.shape).tocsr()
    return lambda: jax.block_until_ready(compiled(held)), read


def sparse() -> Iterator[Row]:
    """Banded residuals, n = 10,000, in compressed rows."""
    x = np.linspace(-1.0, 1.2, 10_000) ** 3
    systems = {
        "Rosenbrock-like residual": (rosenbrock, casadi and casadi_rosenbrock),
        "Bratu 2-D residual": (bratu, casadi and casadi_bratu),
    }
    for name, (function, casadi_function) in systems.items():
        jacobian = gw.jacobian(lambda x, function=function: function(x, np), layout="sparse")
        peers = {}
        if asdex is not None:
            peers["asdex"] = lambda function=function: in_asdex(lambda x: function(x, jnp), x)
        if casadi is not None:
            peers["CasADi (SX)"] = lambda casadi_function=casadi_function: in_casadi(casadi_function, x)
        for peer, make in peers.items():
            (theirs, read), making = first_call(make)
            ours = lambda jacobian=jacobian: jacobian(x)

            def check(mine, values, read=read):
                other = read(values)
                assert mine.shape == other.shape
                assert abs(mine - other).max() <= 1e-9 * abs(other).max()

            found = compare(f"{name}, n=10,000: sparse", ours, peer, theirs, agree=check, at_most=1.0)
            yield Row(**{**asdict(found), "peer_first_ms": found.peer_first_ms + making})


# -- determinants ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """A function whose Jacobian has structure, and its arrays for a size; the function takes the module to compute with.

    Attributes:
        name: what it is.
        function: of the module, then x, then the weights.
        draw: the arrays for a size, x first.
        size: the size to compare at.
        sizes: the sizes over which the growth is fitted.
        parameters: how many parameters it has for a size: what growth is counted in.
        captured: how many of the arrays, from the last, the function captures, as masks; the others are its arguments.
    """

    name: str
    function: Callable
    draw: Callable[[int], list[np.ndarray]]
    size: int
    sizes: Sequence[int]
    parameters: Callable[[int], float] = float
    captured: int = 0


def coupling(np):
    """RealNVP: half of x is scaled and shifted by a net of the other, in turns."""

    def function(x, inner, scales, shifts):
        half = x.shape[0] // 2
        left, right = x[:half], x[half:]
        for layer in range(inner.shape[0]):
            hidden = np.tanh(inner[layer] @ left)
            left, right = right * np.exp(np.tanh(scales[layer] @ hidden)) + shifts[layer] @ hidden, left
        return np.concatenate([left, right])

    return function


def draw_coupling(size):
    rng, half, hidden, layers = np.random.default_rng(size), size // 2, 64, 8
    inner = rng.normal(size=(layers, hidden, half)) / half**0.5
    return [rng.normal(size=size), inner, *[rng.normal(size=(layers, half, hidden)) / hidden**0.5 for _ in range(2)]]


def autoregressive(np):
    """A masked layer (MADE): each element is scaled and shifted by a net of those before it."""

    def function(x, inner, scales, shifts, first, second):
        hidden = np.tanh((inner * first) @ x)
        return x * np.exp(np.tanh((scales * second) @ hidden)) + (shifts * second) @ hidden

    return function


def draw_autoregressive(size):
    rng, degrees = np.random.default_rng(size), np.arange(size)
    weights = [rng.normal(size=(size, size)) / size**0.5 for _ in range(3)]
    return [rng.normal(size=size), *weights, 1.0 * (degrees[:, None] >= degrees), 1.0 * (degrees[:, None] > degrees)]


def triangular(np):
    """The same with weights whose zeros are their own."""

    def function(x, inner, scales, shifts):
        hidden = np.tanh(inner @ x)
        return x * np.exp(np.tanh(scales @ hidden)) + shifts @ hidden

    return function


def draw_triangular(size):
    x, inner, scales, shifts, first, second = draw_autoregressive(size)
    return [x, inner * first, scales * second, shifts * second]


def planar(np):
    """Planar layers: x + u tanh(w x + b)."""

    def function(x, u, w, b):
        for layer in range(u.shape[0]):
            x = x + u[layer] * np.tanh(w[layer] @ x + b[layer])
        return x

    return function


def draw_planar(size):
    rng = np.random.default_rng(size)
    return [rng.normal(size=size), *[rng.normal(size=(4, size)) / size**0.5 for _ in range(2)], rng.normal(size=4)]


def lemma(np):
    """D x + u (v x)."""
    return lambda x, d, u, v: d * x + u * (v @ x)


def draw_lemma(size):
    rng = np.random.default_rng(size)
    return [rng.normal(size=size), rng.normal(size=size), *[rng.normal(size=size) / size**0.5 for _ in range(2)]]


FLOWS = [
    # Growth is measured where the weights fit no cache: between sizes that do and sizes that do not, time grows faster than either.
    # Zeros of larger arrays than these are not looked for.
    Flow("RealNVP, 8 couplings", coupling, draw_coupling, 1024, (8192, 12288, 16384, 24576, 32768)),
    Flow("masked autoregressive", autoregressive, draw_autoregressive, 1024, (1536, 1664, 1792, 1920, 2048), np.square, 2),
    Flow("autoregressive, zeros captured", triangular, draw_triangular, 1024, (1536, 1664, 1792, 1920, 2048), np.square, 3),
    Flow("4 planar layers", planar, draw_planar, 1024, (4096, 8192, 16384, 32768, 65536)),
    Flow("D + u v^T", lemma, draw_lemma, 2000, (4096, 8192, 16384, 32768, 65536)),
]


def closed(flow, module, size):
    """Return the function of x and what else it is given, and these arrays; the others it captures, as a user's function does.

    What is captured cannot be written to, as JAX's arrays cannot: nothing needs to compare it at every call.
    """
    arrays = flow.draw(size)
    count = len(arrays) - flow.captured
    for array in arrays[count:]:
        array.flags.writeable = False
    held = arrays[count:] if module is np else [module.asarray(array) for array in arrays[count:]]
    return lambda *given: flow.function(module)(*given, *held), arrays[:count]


def slogdets() -> Iterator[Row]:
    """Log-determinants of Jacobians, beside LU of the dense Jacobian."""
    for flow in FLOWS:
        function, arrays = closed(flow, np, flow.size)
        ours = gw.jacobian_slogdet(function)
        name = f"slogdet: {flow.name}, n={flow.size}"
        call = lambda ours=ours, arrays=arrays: ours(*arrays)
        if jax is not None:
            theirs, _ = closed(flow, jnp, flow.size)
            dense = jitted(lambda *arrays, theirs=theirs: tuple(jnp.linalg.slogdet(jax.jacobian(theirs)(*arrays))), *arrays)
            yield row(name, call, "jnp.linalg.slogdet(jax.jacobian)", dense, at_most=1 / 50)
        value = gw.evaluate(function)
        forward = lambda value=value, arrays=arrays: value(*arrays)
        yield compare(name, call, "gradwire, its forward pass", forward)


def batched() -> Iterator[Row]:
    """10,000 Jacobians of 3 x 3, and their determinants, under vmap."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(10_000, 3)), rng.normal(size=(3, 3))

    def function(np):
        return lambda x, w: np.tanh(w @ x) * x + np.sin(x)

    jacobian, det = gw.jacobian(function(np)), gw.jacobian_det(function(np))
    pairs = {
        "Jacobians and determinants": (
            gw.vmap(lambda x, w: (jacobian(x, w), det(x, w)), in_axes=(0, None)),
            lambda j, det: (j, det(j)),
        ),
        "Jacobians": (gw.vmap(jacobian, in_axes=(0, None)), lambda j, det: j),
        "determinants": (gw.vmap(det, in_axes=(0, None)), lambda j, det: det(j)),
    }
    for name, (ours, form) in pairs.items():
        call = lambda ours=ours: ours(x, w)
        if jax is not None:
            one = lambda x, w, form=form: form(jax.jacfwd(function(jnp))(x, w), jnp.linalg.det)
            yield row(f"10,000 3x3 {name}", call, "jax.jit(jax.vmap)", jitted(jax.vmap(one, (0, None)), x, w), at_most=4.0)

        def by_hand(form=form):
            t = np.tanh(x @ w.T)
            found = ((1.0 - t * t) * x)[:, :, None] * w
            np.einsum("bii->bi", found)[...] += t + np.cos(x)
            return form(found, np.linalg.det)

        yield row(f"10,000 3x3 {name}", call, "NumPy by hand", by_hand)


def overflow() -> Iterator[Row]:
    """A Kronecker-structured Jacobian whose determinant overflows."""
    rng = np.random.default_rng(0)
    a, b, x = 1e8 * rng.normal(size=(32, 32)), 1e8 * rng.normal(size=(32, 32)), rng.normal(size=(32, 32))
    function = lambda x, a, b: a @ x @ b
    slogdet = gw.jacobian_slogdet(function)

    def by_hand():
        (sign, log), (other_sign, other) = np.linalg.slogdet(a), np.linalg.slogdet(b)
        return (sign * other_sign) ** 32, 32 * (log + other)

    call = lambda: slogdet(x, a, b)
    if jax is not None:
        det = jitted(lambda *arrays: jnp.linalg.det(jax.jacobian(function)(*arrays).reshape(1024, 1024)), x, a, b)

        def check(mine, other):
            assert not np.isfinite(other)
            agree(mine, by_hand())

        name = "A X B, 32 x 32, whose determinant overflows: slogdet"
        yield compare(name, call, "JAX's det, which gives inf", det, agree=check, at_most=1 / 50)
    yield row("A X B, 32 x 32, whose determinant overflows: slogdet", call, "NumPy by hand", by_hand)


# -- figures that are no race ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A measured figure that is no ratio of times.

    Attributes:
        what: what was measured.
        value: the figure.
        at_most: what is wanted.
        note: how it was found.
    """

    what: str
    value: float
    at_most: float | None
    note: str


def fitted(sizes, times):
    """Return the slope of log time over log size."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def median_ms(call, rounds=7):
    call()
    return statistics.median(time_once(call, max(1, int(5 / max(time_once(call, 1), 1e-3)))) for _ in range(rounds))


def growth() -> Iterator[Figure]:
    """How the log-determinants grow with their size, and how the analysis does with the program."""
    for flow in FLOWS:
        times = []
        for size in flow.sizes:
            function, arrays = closed(flow, np, size)
            slogdet = gw.jacobian_slogdet(function)
            times.append(median_ms(lambda slogdet=slogdet, arrays=arrays: slogdet(*arrays)))
        exponent = fitted([flow.parameters(size) for size in flow.sizes], times)
        measured = ", ".join(f"{size}: {spent:.3g}" for size, spent in zip(flow.sizes, times, strict=True))
        counted = "n" if flow.parameters is float else "the parameters"
        yield Figure(f"slogdet of {flow.name}: exponent in {counted}", exponent, 1.1, f"ms by n: {measured}")


def first_ms(function, *arrays):
    """Return the time of a first call less that of a second: tracing, analysis, planning, compiling."""
    spent = []
    for _ in range(3):
        made = function()
        first = time_once(lambda made=made: made(*arrays), 1)
        spent.append(first - time_once(lambda made=made: made(*arrays), 1))
    return min(spent)


def analysis() -> Iterator[Figure]:
    """How long analysis takes, by the length of a program and by the width of its dense edges."""
    rng = np.random.default_rng(0)

    def chain(layers):
        def function(x, w):
            for _ in range(layers):
                x = np.tanh(w @ x) + x
            return x

        return function

    x, w = rng.normal(size=8), rng.normal(size=(8, 8)) / 8
    for name, transform in {"Jacobian": gw.jacobian, "slogdet": gw.jacobian_slogdet}.items():
        lengths = (25, 50, 100, 200, 400)
        times = [first_ms(lambda length=length, transform=transform: transform(chain(length)), x, w) for length in lengths]
        measured = ", ".join(f"{length}: {spent:.3g}" for length, spent in zip(lengths, times, strict=True))
        yield Figure(
            f"analysis, {name} of a chain: exponent in its layers", fitted(lengths, times), 1.2, f"ms by layers: {measured}"
        )
    widths = (64, 128, 256, 512, 1024)
    times = []
    for width in widths:
        arrays = draw_coupling(width)
        times.append(first_ms(lambda: gw.jacobian_slogdet(coupling(np)), *arrays))
    measured = ", ".join(f"{width}: {spent:.3g}" for width, spent in zip(widths, times, strict=True))
    yield Figure("analysis, slogdet of couplings: exponent in their width", fitted(widths, times), 0.3, f"ms by width: {measured}")


# Up to this ratio a figure is not measured again, and so many rounds it takes at most.
CLOSE, MOST_DENSE_ROUNDS, DENSE_BAR = 1.1, 2000, 1.2


def over_dense(program, transform, arrays) -> float | None:
    """Return the time of what is chosen by that of the better of the two dense strategies; None where there is neither."""
    output = [Output((Transform(transform),))]
    executables = {"chosen": compile(program, output)}
    for way in (DENSE_FORWARD, DENSE_REVERSE):
        with contextlib.suppress(LookupError), forcing(way):
            executables[way] = compile(program, output)
    if len(executables) == 1:
        return None
    ratio, rounds = float("inf"), 6
    while ratio > CLOSE and rounds < MOST_DENSE_ROUNDS:  # what seems slow is measured for longer
        measured = strategy.measure(executables, arrays, rounds)
        ratio, rounds = measured.pop("chosen") / min(measured.values()), 4 * rounds
    return ratio


def beside_dense() -> Iterator[Figure]:
    """What is run from the second call on, beside the better of the two dense strategies."""
    ratios = {}
    for name, (function, x, transform, layout) in strategy.CASES.items():
        if layout == "dense":
            program = gw.trace(function, x)
            ratios[name] = over_dense(program, transform, [x, *program.captured])
    yield worst_of("time by that of the best dense strategy: the worst", ratios)
    tested = {name: over_dense(program, "jacobian", arrays) for name, program, arrays in differentiable()}
    yield worst_of("the same, for the programs of the tests", tested)


def worst_of(what: str, ratios: dict[str, float | None]) -> Figure:
    """Return the figure of the largest ratio."""
    found = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    worst = max(found, key=found.__getitem__)
    beyond = sum(ratio > DENSE_BAR for ratio in found.values())
    note = f"{worst}; of {len(found)} programs, the median {statistics.median(found.values()):.3g}, {beyond} above {DENSE_BAR}"
    return Figure(what, found[worst], DENSE_BAR, note)


def accuracy() -> Iterator[Figure]:
    """The log-determinant of 12 layers of condition 1e3 each, beside LU of their product, against exact arithmetic."""
    if mpmath is None:
        return
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(12):
        left, right = [np.linalg.qr(rng.normal(size=(40, 40)))[0] for _ in range(2)]
        layers.append(left * np.geomspace(1.0, 1e-3, 40) @ right)
    x = rng.normal(size=40)

    def function(np):
        def run(x, *layers):
            for layer in layers:
                x = layer @ x
            return x

        return run

    with mpmath.workdps(40):
        exact = sum(mpmath.log(abs(mpmath.det(mpmath.matrix(layer.tolist())))) for layer in layers)
        error = lambda found: float(abs((mpmath.mpf(float(found)) - exact) / exact))
        ours = error(gw.jacobian_slogdet(function(np))(x, *layers)[1])
        note = f"log|det| {float(exact):.6f} by mpmath, 40 digits"
        yield Figure("12 ill-conditioned layers: relative error of log|det|", ours, 1e-10, note)
        if jax is not None:
            dense = jitted(lambda *arrays: jnp.linalg.slogdet(jax.jacobian(function(jnp))(*arrays))[1], x, *layers)
            yield Figure("the same by jnp.linalg.slogdet(jax.jacobian)", error(dense()), None, "")


# -- all -----------------------------------------------------------------------------------------------------------------------

RACES = (factorization, logistic, network, elementwise, product, sparse, slogdets, batched, overflow)
FIGURES = (growth, analysis, beside_dense, accuracy)


def run(groups, only):
    """Run groups of workloads; one that fails is reported, and the others still run."""
    found, failed = [], []
    for group in groups:
        if only in group.__name__:
            try:
                found.extend(group())
            except Exception as error:  # noqa: BLE001  # the other groups still have something to say
                failed.append(f"{group.__name__}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
    return found, failed


def main() -> None:
    chosen = options("structure")
    say_missing()
    began = time.perf_counter()
    rows, failed = run(RACES, chosen.only)
    figures, others = run(FIGURES, chosen.only)
    found = versions()
    show_rows("structure", rows, f"; {', '.join(f'{name} {number}' for name, number in found.items())}; pinned to one processor")
    print(f"\n{'figure':70} {'value':>10} {'wanted':>14}  note")
    for figure in figures:
        wanted = "" if figure.at_most is None else f"<= {figure.at_most:.3g} {'yes' if figure.value <= figure.at_most else 'NO'}"
        print(f"{figure.what:70} {figure.value:10.3g} {wanted:>14}  {figure.note}")
    for failure in (*failed, *others):
        print(f"FAILED {failure}")
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    if chosen.json:
        content = {"versions": found, "rows": [asdict(item) for item in rows], "figures": [asdict(item) for item in figures]}
        chosen.json.write_text(json.dumps(content, indent=2) + "\n")
    if failed or others:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
