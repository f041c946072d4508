"""The functions that an expression may call, by name: those of NumPy and scipy.special that gradwire traces, and its own."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gradwire import numpy as own_numpy
from gradwire._refusals import REFUSALS
from gradwire_core.builder import FOREIGN, FUNCTIONS

# They make arrays of numbers alone, so NumPy has nothing to dispatch on.
_MAKERS = ("arange", "eye", "linspace", "ones", "tri", "zeros")
_ALIASES = {"ln": "log", "sigmoid": "logistic", "expit": "logistic", "digamma": "psi", "lgamma": "gammaln"}
_ROOTS = ("np.", "numpy.", "math.", "gnp.", "gw.")


@functools.cache
def known_functions() -> Mapping[str, Callable[..., Any]]:
    """Return the functions by name; those of linear algebra and Fourier transforms also stand behind `linalg.` and `fft.`."""
    found: dict[str, Callable[..., Any]] = {}
    for prefix, module, own in (
        ("linalg.", np.linalg, own_numpy.linalg),
        ("fft.", np.fft, _module("gradwire.fft")),
        ("", np, own_numpy),
    ):
        found |= {prefix + name: item for name, item in vars(module).items() if _is_traced(name, item)}
        found |= _functions(own, prefix)
    special = {place.rpartition(".")[2]: op for place, op in FOREIGN.items() if "._" not in place}
    special |= _functions(_module("gradwire.special"), "")
    found = special | {"special." + name: item for name, item in special.items()} | found
    found |= {name: getattr(np, name) for name in _MAKERS}
    found |= {alias: found[name] for alias, name in _ALIASES.items() if name in found and alias not in found}
    return types.MappingProxyType(found)


def find_known(name: str) -> Callable[..., Any] | None:
    """Return a function by its name, `np.` and the like in front of it left out; None where there is none."""
    return known_functions().get(plain_name(name))


def plain_name(name: str) -> str:
    """Return a name without `np.`, `math.` or `scipy.` in front of it."""
    for root in ("scipy.", *_ROOTS):
        name = name.removeprefix(root)
    return name


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like a name; None where none is like it."""
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _is_traced(name: str, item: Any) -> bool:
    is_function = not name.startswith("_") and callable(item) and not isinstance(item, type)
    return is_function and name not in REFUSALS and item in FUNCTIONS


def _functions(module: types.ModuleType | None, prefix: str) -> dict[str, Callable[..., Any]]:
    if module is None:
        return {}
    return {
        prefix + name: item
        for name, item in vars(module).items()
        if not name.startswith("_")
        and callable(item)
        and not isinstance(item, type)
        and (getattr(item, "__module__", None) == module.__name__ or hasattr(item, "primitive"))
    }


def _module(name: str) -> types.ModuleType | None:
    return importlib.import_module(name) if importlib.util.find_spec(name) else None
