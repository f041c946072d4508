"""The libraries of the engine benchmark behind one face: NumPy's names, and a compiled derivative as a call without arguments."""

from __future__ import annotations

from _peers import casadi, jax, jitted, torch  # isort: skip  # limits their threads before they are imported

from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import scipy.special

import gradwire as gw
from gradwire._embedded import Embedded

try:
    autograd: Any = import_module("autograd")
except ImportError:
    autograd = None

Function = Callable[..., Any]


class Library(NamedTuple):
    """What a workload is written with.

    Attributes:
        name: for the table.
        np: NumPy's names, and `erf`, `solve_triangular`.
        grad: `grad(function, argnums)`.
        vmap: `vmap(function)`.
        jacobian: `jacobian(function, argnums)`.
        prepare: a derived function and its arrays as a call; a new one has to be traced, derived and compiled anew.
        evaluate: a function that is not derived, before it is prepared.
        scan: `scan(step, init, None, length)`, a loop.
    """

    name: str
    np: Any
    grad: Function
    vmap: Function | None
    jacobian: Function | None
    prepare: Callable[[Function, Sequence[np.ndarray]], Callable[[], Any]]
    evaluate: Function = lambda function: function
    scan: Function | None = None


def _names(module: Any, **others: Any) -> Any:
    """Return a module with further names, which come first."""
    found = SimpleNamespace(**others)
    return type("Names", (), {"__getattr__": lambda self, name: getattr(module, name), **vars(found)})()


def _fixed(function: Function) -> Any:
    return staticmethod(function)


def in_gradwire() -> Library:
    """A backend of its own: nothing that another call compiled is found in it."""
    backend = Embedded()
    names = _names(np, erf=_fixed(scipy.special.erf), solve_triangular=_fixed(_solve_here))
    call = lambda function, arrays: lambda: function(*arrays)
    return Library("gradwire", names, backend.grad, backend.vmap, backend.jacobian, call, backend.evaluate, gw.scan)


def _solve_here(a: Any, b: Any) -> Any:
    return gw.linalg.solve_triangular(a, b, lower=True)


def in_jax() -> Library:
    solve = lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True)
    names = _names(jax.numpy, erf=_fixed(jax.scipy.special.erf), solve_triangular=_fixed(solve))
    call = lambda function, arrays: jitted(function, *arrays)
    return Library("jax.jit", names, jax.grad, jax.vmap, jax.jacfwd, call, scan=jax.lax.scan)


def in_torch() -> Library:
    solve = lambda a, b: torch.linalg.solve_triangular(a, b[:, None], upper=False)[:, 0]
    names = _names(torch, erf=_fixed(torch.erf), solve_triangular=_fixed(solve))

    def prepare(function: Function, arrays: Sequence[np.ndarray]) -> Callable[[], Any]:
        held = [torch.from_numpy(array) for array in arrays]
        return lambda: function(*held)

    return Library("torch.func", names, torch.func.grad, torch.func.vmap, torch.func.jacfwd, prepare)


def in_autograd() -> Library:
    anp = import_module("autograd.numpy")
    solve = lambda a, b: import_module("autograd.scipy.linalg").solve_triangular(a, b, lower=True)
    special = import_module("autograd.scipy.special")
    names = _names(anp, diagonal=_fixed(anp.diag), erf=_fixed(special.erf), solve_triangular=_fixed(solve))

    return Library("autograd", names, autograd.grad, None, autograd.jacobian, lambda function, arrays: lambda: function(*arrays))


def in_casadi() -> Library:
    """CasADi's scalar graphs, for functions of one vector that are sums and products of numbers."""
    names = _names(casadi, sum=_fixed(casadi.sum1), stack=_fixed(lambda parts: casadi.vertcat(*parts)))

    def prepare(function: Function, arrays: Sequence[np.ndarray]) -> Callable[[], Any]:
        (x,) = arrays
        variable = casadi.SX.sym("x", len(x))
        made = casadi.Function("derivative", [variable], [function(variable)])
        return lambda: made(x).full()

    derive = lambda operation: lambda function, argnums=0: lambda x: operation(function(x), x)
    return Library("CasADi", names, derive(casadi.gradient), None, derive(casadi.jacobian), prepare)


LIBRARIES: dict[str, Callable[[], Library]] = {"gradwire": in_gradwire}
LIBRARIES |= {"jax.jit": in_jax} if jax is not None else {}
LIBRARIES |= {"torch.func": in_torch} if torch is not None else {}
LIBRARIES |= {"autograd": in_autograd} if autograd is not None else {}
LIBRARIES |= {"CasADi": in_casadi} if casadi is not None else {}
MISSING = tuple(name for name in ("jax.jit", "torch.func", "autograd", "CasADi") if name not in LIBRARIES)
DENSE = tuple(name for name in LIBRARIES if name not in {"gradwire", "CasADi"})
SCALAR = tuple(name for name in LIBRARIES if name != "gradwire")
