"""Exact derivatives of NumPy functions: in process, or served over gRPC."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradwire import special
    from gradwire._aio import AsyncClient
    from gradwire._client import Client, connect
    from gradwire._config import ClientConfig
    from gradwire._control import cond, custom_derivative, fori_loop, map, scan, stop_gradient
    from gradwire._embedded import (
        evaluate,
        explain,
        grad,
        hessian,
        hvp,
        jacobian,
        jacobian_det,
        jacobian_logvolume,
        jacobian_slogdet,
        jvp,
        trace,
        value_and_grad,
        vjp,
        vmap,
    )
    from gradwire._expression import from_expression
    from gradwire._program import Program
    from gradwire._session import Capabilities
    from gradwire._sympy import from_sympy
    from gradwire_core.errors import (
        ArgumentError,
        CancelledError,
        DeadlineError,
        DrainingError,
        DtypeError,
        GradwireError,
        InternalError,
        LimitError,
        NotDifferentiableError,
        NotFoundError,
        OverloadedError,
        PermissionDeniedError,
        PoisonedTaskError,
        ProgramError,
        ProgramMissingError,
        QuotaError,
        ShapeError,
        TensorMissingError,
        TracingError,
        UnauthenticatedError,
        UnknownPrimitiveError,
        UnreachableError,
        WorkerLostError,
    )
    from gradwire_core.ops.zeros import zeros_outside
    from gradwire_core.structure.structured import StructuredJacobian

# Where each name lives; it is imported when first used, so that gRPC and SciPy load only where they are needed.
_HOMES = {
    "gradwire._aio": ["AsyncClient"],
    "gradwire._client": ["Client", "connect"],
    "gradwire._config": ["ClientConfig"],
    "gradwire._control": ["cond", "custom_derivative", "fori_loop", "map", "scan", "stop_gradient"],
    "gradwire._embedded": [
        "evaluate", "explain", "grad", "hessian", "hvp", "jacobian", "jacobian_det", "jacobian_logvolume", "jacobian_slogdet",
        "jvp", "trace", "value_and_grad", "vjp", "vmap",
    ],
    "gradwire._expression": ["from_expression"],
    "gradwire._program": ["Program"],
    "gradwire._session": ["Capabilities"],
    "gradwire._sympy": ["from_sympy"],
    "gradwire_core.errors": [
        "ArgumentError", "CancelledError", "DeadlineError", "DrainingError", "DtypeError", "GradwireError", "InternalError",
        "LimitError", "NotDifferentiableError", "NotFoundError", "OverloadedError", "PermissionDeniedError", "PoisonedTaskError",
        "ProgramError", "ProgramMissingError", "QuotaError", "ShapeError", "TensorMissingError", "TracingError",
        "UnauthenticatedError", "UnknownPrimitiveError", "UnreachableError", "WorkerLostError",
    ],
    "gradwire_core.ops.zeros": ["zeros_outside"],
    "gradwire_core.structure.structured": ["StructuredJacobian"],
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("gradwire")
    if name == "special":
        return importlib.import_module("gradwire.special")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gradwire' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [  # noqa: RUF022  # by the alphabet, as a reader looks for a name
    "ArgumentError",
    "AsyncClient",
    "CancelledError",
    "Capabilities",
    "Client",
    "ClientConfig",
    "cond",
    "connect",
    "custom_derivative",
    "DeadlineError",
    "DrainingError",
    "DtypeError",
    "evaluate",
    "explain",
    "fori_loop",
    "from_expression",
    "from_sympy",
    "grad",
    "GradwireError",
    "hessian",
    "hvp",
    "InternalError",
    "jacobian",
    "jacobian_det",
    "jacobian_logvolume",
    "jacobian_slogdet",
    "jvp",
    "LimitError",
    "map",
    "NotDifferentiableError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "PoisonedTaskError",
    "Program",
    "ProgramError",
    "ProgramMissingError",
    "QuotaError",
    "scan",
    "ShapeError",
    "special",
    "stop_gradient",
    "StructuredJacobian",
    "TensorMissingError",
    "trace",
    "TracingError",
    "UnauthenticatedError",
    "UnknownPrimitiveError",
    "UnreachableError",
    "value_and_grad",
    "vjp",
    "vmap",
    "WorkerLostError",
    "zeros_outside",
]
