"""The tour: the calculus that gradwire exists for, each derivative with its rule in index notation and its closed form.

A table and nothing else: `gradwire.demo` prints it, the tests check it with every backend. Numbers are small and fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradwire import _embedded as gw
from gradwire_core.types import Array


@dataclass(frozen=True, slots=True)
class Check:
    """One derivative and what it must be.

    Attributes:
        label: the derivative, as mathematicians write it.
        name: the function of the SDK that gives it.
        function: what is differentiated.
        arguments: where.
        expected: the closed form, computed without gradwire.
        options: the options of the SDK's function.
        finish: what is then made of the result.
        rank_out: how many of the axes are those of the output, for printing as a matrix.
    """

    label: str
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    expected: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Any], Any] = lambda result: result
    rank_out: int = 1

    def ask(self, functions: Any) -> Any:
        """Return what a backend answers: the result before `finish`, or an awaitable of it."""
        return getattr(functions, self.name)(self.function, **self.options)(*self.arguments)

    def error(self, result: Any) -> float:
        """Return the largest relative error of a result; where the closed form is 0, relative to its largest element."""
        got, expected = np.asarray(result), np.asarray(self.expected)
        if got.shape != expected.shape:
            return float("inf")
        scale = np.where(expected == 0, max(np.abs(expected).max(), 1e-300), np.abs(expected))
        return float((np.abs(got - expected) / scale).max())


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop of the tour: a rule and the derivatives that show it."""

    title: str
    rule: str
    checks: tuple[Check, ...]


def _layers(x: Any, *weights: Any) -> Any:
    for weight in weights:
        x = np.tanh(weight @ x)
    return x


def _product_of_layers(x: Array, *weights: Array) -> Array:
    product = np.eye(len(x))
    for weight in weights:
        x = np.tanh(weight @ x)
        product = np.diag(1 - x**2) @ weight @ product
    return product


def _neighbours(u: Any) -> Any:
    return u[:-2] - 2 * u[1:-1] + u[2:] + np.exp(u[1:-1])


def _polar(p: Any) -> Any:
    r, phi = p
    return np.stack([r * np.cos(phi), r * np.sin(phi)])


def _spherical(p: Any) -> Any:
    r, theta, phi = p
    return np.stack([r * np.sin(theta) * np.cos(phi), r * np.sin(theta) * np.sin(phi), r * np.cos(theta)])


def _normal_in_polar() -> tuple[Array, Callable[[Any], Any]]:
    """Return nodes in the (r, phi) plane, and what integrates the normal density over them, given the area ratios there."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    r, r_weights, phi = 4.5 * (nodes + 1), 4.5 * weights, np.linspace(0, 2 * np.pi, 8, endpoint=False)
    points = np.stack(np.meshgrid(r, phi, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(-(points[:, 0] ** 2) / 2) / (2 * np.pi)
    areas = np.repeat(r_weights, len(phi)) * (2 * np.pi / len(phi))
    return points, lambda ratio: np.sum(density * np.abs(ratio) * areas)


def _stops() -> tuple[Stop, ...]:
    x, r = 1.2, np.array([0.5, 1.0, 2.0])
    row = np.array([[0.3, -0.7, 1.1]])
    u = np.array([0.1, 0.4, -0.2, 0.3, -0.5])
    a = np.array([0.5, -1.0, 0.25])
    w = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    xs = np.array([[0.1, 0.2, 0.3], [-0.4, 0.5, -0.6]])
    ws = (
        np.array([[0.5, -0.2, 0.1], [0.3, 0.8, -0.5], [-0.6, 0.4, 0.7]]),
        np.array([[0.2, 0.9, -0.3], [-0.7, 0.1, 0.6], [0.4, -0.5, 0.3]]),
    )
    v = np.array([[0.7, -0.4], [0.2, 0.9]])
    m = np.array([[2.0, 1.0], [0.5, 3.0]])
    inverse = np.linalg.inv(m)
    eye2 = np.eye(2)
    slope = 1 - np.tanh(xs @ w.T) ** 2
    points, integrate = _normal_in_polar()
    p2, p3 = np.array([2.0, 0.8]), np.array([1.5, 0.9, 2.2])

    return (
        Stop(
            "The chain rule: y = ln(sin x)",
            "dy/dx = dy/du du/dx,  u = sin x:  cos x / sin x",
            (
                Check("dy/dx", "grad", lambda x: np.log(np.sin(x)), (x,), 1 / np.tan(x)),
                Check("d2y/dx2", "hessian", lambda x: np.log(np.sin(x)), (x,), -1 / np.sin(x) ** 2),
            ),
        ),
        Stop(
            "The product rule: y = ln(x) sin(x)",
            "d(u v)/dx = du/dx v + u dv/dx:  sin x / x + ln x cos x",
            (Check("dy/dx", "grad", lambda x: np.log(x) * np.sin(x), (x,), np.sin(x) / x + np.log(x) * np.cos(x)),),
        ),
        Stop(
            "The sum rule: y = sin x + x^3 + e^x",
            "d(u + v)/dx = du/dx + dv/dx:  cos x + 3 x^2 + e^x",
            (Check("dy/dx", "grad", lambda x: np.sin(x) + x**3 + np.exp(x), (x,), np.cos(x) + 3 * x**2 + np.exp(x)),),
        ),
        Stop(
            "A scalar function of a row vector: y = e^(x a), x: 1 x M",
            "dy/dx_1m = e^(x a) a_m,  of the shape of x: 1 x M",
            (Check("dy/dx", "grad", lambda x: np.exp(x @ a)[0], (row,), np.exp(row @ a)[0] * a[None, :]),),
        ),
        Stop(
            "The sine of a row vector: y = sin x, x: 1 x M",
            "dy_1i/dx_1j = delta_ij cos x_1i:  diagonal, M numbers",
            (
                Check("dy/dx", "jacobian", np.sin, (row,), np.diag(np.cos(row[0]))[None, :, None, :], rank_out=2),
                Check(
                    "bytes held, structured",
                    "jacobian",
                    np.sin,
                    (row,),
                    8 * row.size,
                    {"layout": "structured"},
                    lambda found: found.nbytes,
                ),
            ),
        ),
        Stop(
            "The four shapes of a Jacobian",
            "shape_out + shape_in:  (), (N), (M), (N, M)",
            (
                Check("one in, one out", "jacobian", lambda x: x**2, (x,), 2 * x),
                Check(
                    "one in, many out",
                    "jacobian",
                    lambda x: np.stack([np.cos(x), np.sin(x)]),
                    (x,),
                    np.array([-np.sin(x), np.cos(x)]),
                ),
                Check("many in, one out", "jacobian", lambda r: np.sum(np.log(r)), (r,), 1 / r, rank_out=0),
                Check(
                    "many in, many out",
                    "jacobian",
                    lambda r: np.stack([np.prod(r), np.sum(r**2)]),
                    (r,),
                    np.array([[r[1] * r[2], r[0] * r[2], r[0] * r[1]], 2 * r]),
                ),
            ),
        ),
        Stop(
            "A linear layer: h = x w^T, x: M, w: N x M",
            "dh_n/dx_m = w_nm:  W itself, not its transpose;  dh_n/dw_km = delta_nk x_m",
            (
                Check("dh/dx", "jacobian", lambda x, w: x @ w.T, (a, w), w),
                Check("dh/dw", "jacobian", lambda x, w: x @ w.T, (a, w), np.einsum("nk,m->nkm", eye2, a), {"argnums": 1}),
            ),
        ),
        Stop(
            "A batch through a linear layer: Y = X W^T, X: S x M, W: N x M",
            "dY_sn/dX_tm = delta_st W_nm,  S x N x S x M;  dY_sn/dW_km = delta_nk X_sm,  S x N x N x M",
            (
                Check("dY/dX", "jacobian", lambda x, w: x @ w.T, (xs, w), np.einsum("st,nm->sntm", eye2, w), rank_out=2),
                Check(
                    "dY/dW",
                    "jacobian",
                    lambda x, w: x @ w.T,
                    (xs, w),
                    np.einsum("nk,sm->snkm", eye2, xs),
                    {"argnums": 1},
                    rank_out=2,
                ),
            ),
        ),
        Stop(
            "Neighbours on a line: h_i = u_i - 2 u_(i+1) + u_(i+2) + e^u_(i+1)",
            "dh_i/du_j = delta_ij + (e^u_j - 2) delta_(i+1)j + delta_(i+2)j:  three entries a row, found without the zeros",
            (
                Check(
                    "dh/du",
                    "jacobian",
                    _neighbours,
                    (u,),
                    np.eye(3, 5) + np.diag(np.exp(u) - 2)[1:4] + np.eye(3, 5, 2),
                    {"layout": "sparse"},
                    lambda found: found.toarray(),
                ),
                Check("entries held, sparse", "jacobian", _neighbours, (u,), 9, {"layout": "sparse"}, lambda found: found.nnz),
            ),
        ),
        Stop(
            "A matrix function of a matrix: Y = X^-1",
            "dY_ij/dX_kl = -Y_ik Y_lj,  shape_out x shape_in",
            (Check("dY/dX", "jacobian", np.linalg.inv, (m,), -np.einsum("ik,lj->ijkl", inverse, inverse), rank_out=2),),
        ),
        Stop(
            "A composition of layers: h_l = tanh(W_l h_(l-1))",
            "dh_L/dh_0 = J_L ... J_2 J_1,  J_l = diag(1 - h_l^2) W_l",
            (Check("dh/dx", "jacobian", lambda x: _layers(x, *ws, *ws), (a,), _product_of_layers(a, *ws, *ws)),),
        ),
        Stop(
            "Two paths: h = f(y1, y2) = y1 e^y2, y1 = x^2, y2 = sin x",
            "dh/dx = df/dy1 dy1/dx + df/dy2 dy2/dx:  e^(sin x) (2 x + x^2 cos x)",
            (Check("dh/dx", "grad", lambda x: x**2 * np.exp(np.sin(x)), (x,), np.exp(np.sin(x)) * (2 * x + x**2 * np.cos(x))),),
        ),
        Stop(
            "The chain rule of tensors: Z = tanh(Y) V^T, Y = X W^T",
            "dZ_sk/dX_bm = sum_tn dZ_sk/dY_tn dY_tn/dX_bm:  one einsum, 'sktn,tnbm->skbm'",
            (
                Check(
                    "dZ/dX",
                    "jacobian",
                    lambda x: np.tanh(x @ w.T) @ v.T,
                    (xs,),
                    np.einsum("sktn,tnbm->skbm", np.einsum("st,tn,kn->sktn", eye2, slope, v), np.einsum("tb,nm->tnbm", eye2, w)),
                    rank_out=2,
                ),
            ),
        ),
        Stop(
            "The determinant of a Jacobian: the ratio of areas and volumes",
            "dx dy = |det d(x,y)/d(r,phi)| dr dphi = r dr dphi;  dx dy dz = r^2 sin(theta) dr dtheta dphi;  total probability 1",
            (
                Check("polar", "jacobian_det", _polar, (p2,), p2[0]),
                Check("spherical", "jacobian_det", _spherical, (p3,), p3[0] ** 2 * np.sin(p3[1])),
                Check(
                    "ln of spherical",
                    "jacobian_slogdet",
                    _spherical,
                    (p3,),
                    np.array([1.0, 2 * np.log(p3[0]) + np.log(np.sin(p3[1]))]),
                    finish=np.stack,
                ),
                Check(
                    "a sphere's surface, ln",
                    "jacobian_logvolume",
                    lambda angles: _spherical((2.0, angles[0], angles[1])),
                    (p3[1:],),
                    np.log(4 * np.sin(p3[1])),
                ),
                Check("the normal density integrates to", "vmap", gw.jacobian_det(_polar), (points,), 1.0, finish=integrate),
                Check("a rotation", "jacobian_det", lambda x: x @ _rotation(), (r,), 1.0),
            ),
        ),
    )


def _rotation() -> Array:
    """Return the rotation about the axis (1, 1, 1) that permutes the axes."""
    return np.roll(np.eye(3), 1, axis=0)


TOUR = _stops()
CHECKS = tuple(check for stop in TOUR for check in stop.checks)
TOLERANCE = 1e-12
