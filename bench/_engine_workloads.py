"""The workloads of the engine benchmark: each function once, for every library, and its derivative by hand in NumPy.

`lib` is a library of `_engine_libraries`; `lib.np` has NumPy's names. The objectives of Gaussian mixtures and bundle adjustment are
those of Srajer, Kukelova, Fitzgibbon, "A benchmark of selected algorithmic differentiation tools" (ADBench), 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg
import scipy.special
from _engine_cold import Cold, unrolled_by_jax
from _engine_libraries import DENSE, SCALAR, Library, in_jax, jax

Call = Callable[[], Any]


@dataclass(frozen=True)
class Workload:
    """A derivative to compute.

    Attributes:
        name: for the table.
        derived: the function with its derivative taken, by a library.
        arrays: what it is called with.
        by_hand: the same from the arrays, written with NumPy.
        value: the function itself, where it is a scalar one whose gradient is taken.
        peers: the libraries it is written for.
        others: further peers.
        rtol: how far results may be apart, of their largest element.
        bound: the wanted cost of the gradient over the value.
        jax_cold: what the first answer of jax.jit to the same program takes, where it is none of the peers.
        counts: whether the means are also of it.
    """

    name: str
    derived: Callable[[Library], Callable[..., Any]]
    arrays: Sequence[np.ndarray]
    by_hand: Callable[..., Any]
    value: Callable[[Library], Callable[..., Any]] | None = None
    peers: tuple[str, ...] = DENSE
    others: dict[str, Callable[[], Call]] = field(default_factory=dict)
    rtol: float = 1e-9
    bound: float = 4.0
    jax_cold: Callable[[], Cold] | None = None
    counts: bool = True


def gradient(name, function, arrays, by_hand, argnums=0, **settings) -> Workload:
    """A gradient of a scalar function."""
    derived = lambda lib: lib.grad(function(lib), argnums)
    return Workload(name, derived, arrays, by_hand, value=function, **settings)


# -- arrays ------------------------------------------------------------------------------------------------------------------


def waves(lib):
    np = lib.np
    return lambda x: np.sum(np.sin(x) * np.exp(-0.5 * (x * x)) + np.tanh(x) * np.log(1.0 + x * x))


def waves_by_hand(x):
    square = x * x
    bell, slope, more = np.exp(-0.5 * square), np.tanh(x), 1.0 + square
    return (np.cos(x) - x * np.sin(x)) * bell + (1.0 - slope * slope) * np.log(more) + 2.0 * slope * x / more


def elementwise() -> Iterator[Workload]:
    for dtype, rtol in ((np.float64, 1e-9), (np.float32, 1e-5)):
        x = np.random.default_rng(0).normal(size=1_000_000).astype(dtype)
        yield gradient(f"elementwise gradient, 1e6, {np.dtype(dtype)}", waves, (x,), waves_by_hand, rtol=rtol)


def logistic_loss(lib):
    np = lib.np
    return lambda w, features, labels: np.mean(np.log1p(np.exp(-labels * (features @ w))))


def logistic_by_hand(w, features, labels):
    margins = labels * (features @ w)
    return (-labels / (1.0 + np.exp(margins))) @ features / len(labels)


def logistic() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    for count in (10_000, 100_000):
        data = (rng.normal(size=100) / 10, rng.normal(size=(count, 100)), np.sign(rng.normal(size=count)))
        yield gradient(f"logistic regression gradient, {count:,} x 100", logistic_loss, data, logistic_by_hand)


def network_loss(lib):
    np = lib.np
    return lambda first, second, inputs, targets: np.mean((np.tanh(inputs @ first) @ second - targets) ** 2)


def network_by_hand(first, second, inputs, targets):
    hidden = np.tanh(inputs @ first)
    error = 2.0 * (hidden @ second - targets) / targets.size
    return inputs.T @ ((error @ second.T) * (1.0 - hidden * hidden)), hidden.T @ error


def network() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(784, 256)) / 28, rng.normal(size=(256, 10)) / 16)
    batch = (rng.normal(size=(256, 784)), rng.normal(size=(256, 10)))
    yield gradient("two-layer net gradient, 256 x 784-256-10", network_loss, (*weights, *batch), network_by_hand, (0, 1))


GAMMA, WISHART = 1.0, 0.0


def triangle(d):
    """Where the elements of a triangular matrix stand in (0, diagonal, below it by columns)."""
    index = np.zeros((d, d), np.int64)
    index[np.arange(d), np.arange(d)] = 1 + np.arange(d)
    columns, rows = np.triu_indices(d, 1)
    index[rows, columns] = 1 + d + np.arange(len(rows))
    return index


def mixture_loss(lib):
    np, is_torch = lib.np, lib.name == "torch.func"

    def loss(alphas, means, factors, x, zeros):
        d = x.shape[1]
        logs, below = factors[:, :d], factors[:, d:]
        matrices = np.concatenate([zeros, np.exp(logs), below], axis=1)[:, triangle(d)]
        apart = x[:, None, :] - means[None, :, :]
        scaled = np.sum((np.einsum("kab,nkb->nka", matrices, apart)) ** 2, axis=2)
        inner = alphas + np.sum(logs, axis=1) - 0.5 * scaled
        most = inner.amax(dim=1) if is_torch else inner.max(axis=1)
        total = np.sum(np.log(np.sum(np.exp(inner - most[:, None]), axis=1)) + most)
        prior = 0.5 * GAMMA**2 * (np.sum(np.exp(2.0 * logs)) + np.sum(below**2)) - WISHART * np.sum(logs)
        return total - len(x) * np.log(np.sum(np.exp(alphas))) + prior

    return loss


def mixture_by_hand(alphas, means, factors, x, zeros):
    n, d = x.shape
    logs, below = factors[:, :d], factors[:, d:]
    diagonals = np.exp(logs)
    matrices = np.concatenate([zeros, diagonals, below], axis=1)[:, triangle(d)]
    moved = np.empty((len(alphas), n, d))
    apart = x[None, :, :] - means[:, None, :]
    np.matmul(apart, matrices.transpose(0, 2, 1), out=moved)
    inner = alphas + np.sum(logs, axis=1) - 0.5 * np.einsum("kna,kna->nk", moved, moved)
    inner = np.exp(inner - inner.max(axis=1, keepdims=True))
    shares = inner / inner.sum(axis=1, keepdims=True)
    moved *= shares.T[:, :, None]
    counts = shares.sum(axis=0)
    by_matrix = -np.matmul(moved.transpose(0, 2, 1), apart)
    columns, rows = np.triu_indices(d, 1)
    by_logs = np.einsum("kaa->ka", by_matrix) * diagonals + counts[:, None] + GAMMA**2 * diagonals**2 - WISHART
    by_below = by_matrix[:, rows, columns] + GAMMA**2 * below
    chances = np.exp(alphas) / np.sum(np.exp(alphas))
    by_means = np.matmul(moved.sum(axis=1)[:, None, :], matrices)[:, 0, :]
    return counts - n * chances, by_means, np.concatenate([by_logs, by_below], axis=1)


def mixture() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    n, d, k = 1000, 20, 25
    parts = (rng.normal(size=k), rng.normal(size=(k, d)), rng.normal(size=(k, d * (d + 1) // 2)) / 5)
    arrays = (*parts, rng.normal(size=(n, d)), np.zeros((k, 1)))
    yield gradient("Gaussian mixture gradient, n=1000 d=20 k=25", mixture_loss, arrays, mixture_by_hand, (0, 1, 2))


def residual(lib):
    """The reprojection of a point in space by a camera: rotation, centre, focal length, principal point, distortion."""
    np = lib.np

    def cross(a, b):
        return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])

    def function(camera, point, weight, feature):
        angle = np.sqrt(np.sum(camera[:3] ** 2))
        axis, apart = camera[:3] / angle, point - camera[3:6]
        turned = apart * np.cos(angle) + cross(axis, apart) * np.sin(angle)
        turned = turned + axis * (np.sum(axis * apart) * (1.0 - np.cos(angle)))
        flat = turned[:2] / turned[2]
        radius = np.sum(flat * flat)
        seen = flat * (1.0 + camera[9] * radius + camera[10] * radius * radius) * camera[6] + camera[7:9]
        return weight * (seen - feature)

    return function


def residual_jacobian(lib):
    derived = lib.jacobian(residual(lib), (0, 1, 2))
    return lib.vmap(derived)


def residual_jacobian_by_hand(camera, point, weight, feature):
    turn = camera[:, :3]
    angle = np.sqrt(np.sum(turn**2, axis=1))[:, None]
    axis, apart = turn / angle, point - camera[:, 3:6]
    cosine, sine = np.cos(angle), np.sin(angle)
    along, beside = np.sum(axis * apart, axis=1, keepdims=True), np.cross(axis, apart)
    turned = apart * cosine + beside * sine + axis * (along * (1.0 - cosine))
    moved = np.empty((len(camera), 3, 6))  # by the rotation, then by the point
    shift = (-apart * sine + beside * cosine + axis * along * sine)[:, :, None] * axis[:, None, :]
    bends = (np.eye(3) - axis[:, :, None] * axis[:, None, :]) / angle[:, :, None]
    sine, rest = sine[:, :, None], (1.0 - cosine)[:, :, None]
    crossed = np.zeros((len(camera), 3, 3))
    for (row, column), item, sign in zip(
        ((0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)), (2, 1, 0, 2, 1, 0), (1, -1, 1, -1, 1, -1), strict=True
    ):
        crossed[:, row, column] = sign * apart[:, item]  # the matrix of b -> b x apart
    moved[:, :, :3] = shift + (crossed @ bends) * sine
    moved[:, :, :3] += bends * along[:, :, None] * rest + axis[:, :, None] * (apart[:, None, :] @ bends) * rest
    moved[:, :, 3:] = axis[:, :, None] * axis[:, None, :] * rest
    for (row, column), item, sign in zip(
        ((0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1)), (2, 1, 0, 2, 1, 0), (-1, 1, -1, 1, -1, 1), strict=True
    ):
        moved[:, row, 3 + column] += sign * axis[:, item] * sine[:, 0, 0]
    moved[:, [0, 1, 2], [3, 4, 5]] += cosine
    depth = turned[:, 2:]
    flat = turned[:, :2] / depth
    radius = np.sum(flat * flat, axis=1, keepdims=True)
    one, two, focal = camera[:, 9:10], camera[:, 10:11], camera[:, 6:7]
    bent = 1.0 + one * radius + two * radius * radius
    flats = (moved[:, :2] - flat[:, :, None] * moved[:, 2:]) / depth[:, :, None]
    radii = 2.0 * np.sum(flat[:, :, None] * flats, axis=1, keepdims=True)
    scale = (focal * weight[:, None])[:, :, None]
    inner = (flats * bent[:, :, None] + flat[:, :, None] * (radii * (one + 2.0 * two * radius)[:, :, None])) * scale
    by_camera = np.zeros((len(camera), 2, 11))
    by_camera[:, :, :3] = inner[:, :, :3]
    by_camera[:, :, 3:6] = -inner[:, :, 3:]
    by_camera[:, :, 6] = flat * bent * weight[:, None]
    by_camera[:, 0, 7] = by_camera[:, 1, 8] = weight
    by_camera[:, :, 9] = flat * (radius * focal * weight[:, None])
    by_camera[:, :, 10] = flat * (radius * radius * focal * weight[:, None])
    return by_camera, inner[:, :, 3:], flat * bent * focal + camera[:, 7:9] - feature


def bundle() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    count = 10_000
    camera = np.concatenate([rng.normal(size=(count, 3)), rng.normal(size=(count, 3)), rng.uniform(0.5, 2.0, (count, 5))], axis=1)
    arrays = (camera, rng.normal(size=(count, 3)) + 4.0, rng.uniform(0.5, 1.5, count), rng.normal(size=(count, 2)))
    peers = tuple(name for name in DENSE if name != "autograd")  # which has no vmap
    yield Workload("bundle adjustment Jacobians, 10,000", residual_jacobian, arrays, residual_jacobian_by_hand, peers=peers)


def lstm_loss(lib):
    np = lib.np

    def loss(weights, bias, x, h, c):
        size = c.shape[1]
        gates = np.concatenate([x, h], axis=1) @ weights + bias
        inside, forget, out = [1.0 / (1.0 + np.exp(-gates[:, part * size : (part + 1) * size])) for part in range(3)]
        carried = forget * c + inside * np.tanh(gates[:, 3 * size :])
        return np.sum((out * np.tanh(carried)) ** 2) + np.sum(carried * c)

    return loss


def lstm_by_hand(weights, bias, x, h, c):
    size = c.shape[1]
    joined = np.concatenate([x, h], axis=1)
    gates = joined @ weights
    gates += bias
    inside, forget, out = [1.0 / (1.0 + np.exp(-gates[:, part * size : (part + 1) * size])) for part in range(3)]
    new = np.tanh(gates[:, 3 * size :])
    carried = forget * c + inside * new
    shown = np.tanh(carried)
    result = out * shown
    by_carried = 2.0 * result * out * (1.0 - shown * shown) + c
    by_gates = np.empty_like(gates)
    np.multiply(by_carried * new, inside * (1.0 - inside), out=by_gates[:, :size])
    np.multiply(by_carried * c, forget * (1.0 - forget), out=by_gates[:, size : 2 * size])
    np.multiply(2.0 * result * shown, out * (1.0 - out), out=by_gates[:, 2 * size : 3 * size])
    np.multiply(by_carried * inside, 1.0 - new * new, out=by_gates[:, 3 * size :])
    return joined.T @ by_gates, by_gates.sum(axis=0)


def lstm() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    batch, size = 64, 128
    arrays = (rng.normal(size=(2 * size, 4 * size)) / 16, rng.normal(size=4 * size))
    arrays += tuple(rng.normal(size=(batch, size)) for _ in range(3))
    yield gradient("LSTM step gradient, batch 64, 128 units", lstm_loss, arrays, lstm_by_hand, (0, 1))


def option_price(lib):
    np = lib.np
    normal = lambda x: 0.5 + 0.5 * np.erf(x * math.sqrt(0.5))

    def price(spot, time, rate, volatility, strike):
        spread = volatility * np.sqrt(time)
        above = (np.log(spot / strike) + (rate + 0.5 * volatility * volatility) * time) / spread
        return spot * normal(above) - strike * np.exp(-rate * time) * normal(above - spread)

    return price


def greeks(lib):
    np, price = lib.np, option_price(lib)
    total = lambda *given: np.sum(price(*given))
    first, delta = lib.grad(total, (0, 1, 2, 3)), lib.grad(total, 0)
    second = lib.grad(lambda *given: np.sum(delta(*given)), 0)

    def run(*given):
        return (*first(*given), second(*given))

    return lib.evaluate(run)


def greeks_by_hand(spot, time, rate, volatility, strike):
    root = np.sqrt(time)
    spread = volatility * root
    above = (np.log(spot / strike) + (rate + 0.5 * volatility * volatility) * time) / spread
    chance, chance_below = scipy.special.ndtr(above), scipy.special.ndtr(above - spread)
    density = np.exp(-0.5 * above * above) * (1.0 / math.sqrt(2.0 * math.pi))
    discounted = strike * np.exp(-rate * time) * chance_below
    bell = spot * density
    return chance, bell * volatility / (2.0 * root) + rate * discounted, discounted * time, bell * root, density / (spot * spread)


def black_scholes() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    ranges = ((80.0, 120.0), (0.1, 2.0), (0.0, 0.05), (0.1, 0.5), (80.0, 120.0))
    arrays = tuple(rng.uniform(low, high, 1_000_000) for low, high in ranges)
    yield Workload("Black-Scholes greeks, 1e6 options", greeks, arrays, greeks_by_hand)


def log_density(lib):
    np = lib.np

    def density(covariance, x):
        factor = np.linalg.cholesky(covariance)
        white = np.solve_triangular(factor, x)
        return -0.5 * np.sum(white * white) - np.sum(np.log(np.diagonal(factor)))

    return density


def log_density_by_hand(covariance, x):
    factor = scipy.linalg.lapack.dpotrf(covariance, lower=1)[0]
    inverse = scipy.linalg.lapack.dpotri(factor, lower=1)[0]
    below = np.tril(inverse, -1)
    inverse = np.tril(inverse) + below.T
    weights = inverse @ x
    return 0.5 * (weights[:, None] * weights - inverse)


def cholesky() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 500))
    arrays = (a @ a.T / 500 + np.eye(500), rng.normal(size=500))
    yield gradient("Cholesky log-density gradient, n=500", log_density, arrays, log_density_by_hand, bound=6.0)


def rosenbrock_value(lib):
    np = lib.np
    return lambda x: np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def rosenbrock_by_hand(x):
    result = np.empty_like(x)
    before = x[:-1]
    inner = x[1:] - before * before
    inner *= 200.0
    result[0] = 0.0
    result[1:] = inner
    inner *= before
    inner *= 2.0
    inner += 2.0 * (1.0 - before)
    result[:-1] -= inner
    return result


def rosenbrock() -> Iterator[Workload]:
    for count in (10, 100_000):
        x = np.random.default_rng(0).normal(size=count)
        peers = SCALAR if count == 10 else DENSE
        yield gradient(f"Rosenbrock gradient, n={count:,}", rosenbrock_value, (x,), rosenbrock_by_hand, peers=peers)


# -- numbers -----------------------------------------------------------------------------------------------------------------


def arm_place(lib):
    """Where a planar arm of two links ends."""
    np = lib.np

    def place(q):
        one, both = q[0], q[0] + q[1]
        return np.stack([1.2 * np.cos(one) + 0.8 * np.cos(both), 1.2 * np.sin(one) + 0.8 * np.sin(both)])

    return place


def arm_by_hand(q):
    one, both = float(q[0]), float(q[0] + q[1])
    x, y = 0.8 * math.cos(both), 0.8 * math.sin(both)
    return np.array([[-1.2 * math.sin(one) - y, -y], [1.2 * math.cos(one) + x, x]])


# Denavit-Hartenberg parameters of an industrial arm of six joints: length, twist, offset.
LINKS = ((0.18, -1, 0.4), (0.6, 0, 0.0), (0.12, -1, 0.0), (0.0, 1, 0.62), (0.0, -1, 0.0), (0.0, 0, 0.115))


def robot_place(lib):
    """Where a robot of six joints ends: the product of its frames, number by number, from the last to the first."""
    np = lib.np

    def place(q):
        x, y, z = 0.0, 0.0, 0.0
        for number in reversed(range(6)):
            length, twist, offset = LINKS[number]
            if twist:
                y, z = -twist * z, twist * y  # a turn by a right angle about x
            x, z = x + length, z + offset
            cosine, sine = np.cos(q[number]), np.sin(q[number])
            x, y = cosine * x - sine * y, sine * x + cosine * y
        return np.stack([x, y, z])

    return place


def robot_by_hand(q):
    angles = q.tolist()
    # The place of the end, and how it moves with each joint: a turn about z, carried on to the frames before.
    x = y = z = 0.0
    moved: list[list[float]] = [[], [], []]
    for number in reversed(range(6)):
        length, twist, offset = LINKS[number]
        if twist:
            y, z = -twist * z, twist * y
            moved[1], moved[2] = [-twist * item for item in moved[2]], [twist * item for item in moved[1]]
        x, z = x + length, z + offset
        cosine, sine = math.cos(angles[number]), math.sin(angles[number])
        x, y = cosine * x - sine * y, sine * x + cosine * y
        pairs = [*zip(moved[0], moved[1], strict=True)]
        moved[0] = [-y, *[cosine * one - sine * other for one, other in pairs]]
        moved[1] = [x, *[sine * one + cosine * other for one, other in pairs]]
        moved[2] = [0.0, *moved[2]]
    return np.array(moved)


def arms() -> Iterator[Workload]:
    rng = np.random.default_rng(0)
    table = {2: (arm_place, arm_by_hand), 6: (robot_place, robot_by_hand)}
    for count, (place, by_hand) in table.items():
        derived = lambda lib, place=place: lib.jacobian(place(lib))
        yield Workload(f"arm of {count} links, Jacobian", derived, (rng.normal(size=count),), by_hand, peers=SCALAR)


STEPS, STEP = 1000, 0.01


def kepler_step(np, x, y, u, v):
    square = x * x + y * y
    pull = STEP / (square * np.sqrt(square))
    u, v = u - pull * x, v - pull * y
    return x + STEP * u, y + STEP * v, u, v


def kepler_end(lib, steps=STEPS):
    """The squared distance at the end of an orbit, by the symplectic Euler method."""

    np = lib.np

    def end(start):
        state = start[0], start[1], start[2], start[3]
        for _ in range(steps):
            state = kepler_step(np, *state)
        return state[0] * state[0] + state[1] * state[1]

    return end


def kepler_end_by_scan(lib):
    """The same as a loop of the library."""

    def end(start):
        step = lambda state, _: (kepler_step(lib.np, *state), None)
        state, _ = lib.scan(step, (start[0], start[1], start[2], start[3]), None, STEPS)
        return state[0] * state[0] + state[1] * state[1]

    return end


def kepler_by_hand(start):
    x, y, u, v = start.tolist()
    kept = []
    for _ in range(STEPS):
        square = x * x + y * y
        pull = STEP / (square * math.sqrt(square))
        kept.append((x, y, square, pull))
        u, v = u - pull * x, v - pull * y
        x, y = x + STEP * u, y + STEP * v
    by_x, by_y, by_u, by_v = 2.0 * x, 2.0 * y, 0.0, 0.0
    for x, y, square, pull in reversed(kept):
        by_u, by_v = by_u + STEP * by_x, by_v + STEP * by_y
        by_square = (by_u * x + by_v * y) * 3.0 * pull / square
        by_x, by_y = by_x - by_u * pull + by_square * x, by_y - by_v * pull + by_square * y
    return np.array([by_x, by_y, by_u, by_v])


def kepler() -> Iterator[Workload]:
    start = np.array([1.0, 0.1, -0.1, 0.9])
    name = f"Kepler orbit gradient, {STEPS} unrolled steps"
    peers = tuple(name for name in SCALAR if name != "jax.jit")  # to which its loop is faster, and the only one compiled in time
    others, cold = {}, None
    if jax is not None:
        loop = in_jax()
        others["jax.jit, scan"] = lambda: loop.prepare(loop.grad(kepler_end_by_scan(loop)), [start])
        cold = lambda: unrolled_by_jax(STEPS)
    yield gradient(name, kepler_end, (start,), kepler_by_hand, peers=peers, others=others, jax_cold=cold)
    loops = tuple(name for name in DENSE if name == "jax.jit")
    yield gradient(
        f"Kepler orbit gradient, scan of {STEPS} steps", kepler_end_by_scan, (start,), kepler_by_hand, peers=loops, counts=False
    )


LENGTH = 10_000


def chain_end(lib):
    np = lib.np

    def end(x):
        first = y = x[0]
        for _ in range(LENGTH // 2):
            y = np.sin(y) + first
        return y

    return end


def chain_by_hand(x):
    first = y = float(x[0])
    kept = []
    for _ in range(LENGTH // 2):
        kept.append(y)
        y = math.sin(y) + first
    flow, total = 1.0, 0.0
    for y in reversed(kept):
        total += flow
        flow *= math.cos(y)
    return np.array([flow + total])


def chain() -> Iterator[Workload]:
    yield gradient(f"chain of {LENGTH:,} scalar equations, gradient", chain_end, (np.array([0.7]),), chain_by_hand, peers=SCALAR)


GROUPS = (
    elementwise, logistic, network, mixture, bundle, lstm, black_scholes, rosenbrock, arms, kepler, chain, cholesky,
)  # fmt: skip
