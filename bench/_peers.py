"""The peers of the structure benchmark, each on one thread in this process; one that is not installed is left out, and said so."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np

# XLA reads its flags once; a process on one processor leaves no thread of it a second one.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

NAMES = ("jax", "torch", "casadi", "asdex", "mpmath")


def _load(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


modules = {name: _load(name) for name in NAMES}
jax, torch, casadi, asdex, mpmath = modules.values()
missing = tuple(name for name, module in modules.items() if module is None)
if jax is not None:
    jax.config.update("jax_enable_x64", True)
if torch is not None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)


def versions() -> dict[str, str]:
    """Return the versions of what is compared, and the word "missing"."""
    found = {name: "missing" if name in missing else version(name) for name in NAMES}
    return {"gradwire": version("gradwire"), "numpy": np.__version__, **found}


def say_missing() -> None:
    for name in missing:
        print(f"missing peer: {name} is not installed, its rows are left out", file=sys.stderr)


def jitted(function: Callable[..., Any], *arrays: np.ndarray) -> Callable[[], Any]:
    """Return a call of a compiled JAX function of arrays that it holds already."""
    compiled, held = jax.jit(function), [jax.numpy.asarray(array) for array in arrays]
    return lambda: jax.block_until_ready(compiled(*held))


def in_torch(function: Callable[..., Any], *arrays: np.ndarray) -> Callable[[], Any]:
    """Return a call of a PyTorch function of tensors that it holds already."""
    held = [torch.from_numpy(array) for array in arrays]
    return lambda: function(*held)


def flat_arrays(result: Any) -> list[np.ndarray]:
    """Return the arrays of a result, which may be nested tuples of any library's arrays."""
    if isinstance(result, tuple | list):
        return [array for item in result for array in flat_arrays(item)]
    return [np.asarray(result)]
