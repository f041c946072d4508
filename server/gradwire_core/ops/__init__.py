"""The operations of gradwire, each declared once; importing this package fills the registry `PRIMITIVES`."""

from gradwire_core.ops import (
    complex,
    contraction,
    control,
    cumulative,
    eigen,
    elementwise,
    exponential,
    factorization,
    indexing,
    linalg,
    reduction,
    rounding,
    selection,
    shaping,
    singular,
    transcendental,
    triangular,
)
from gradwire_core.ops._declare import PRIMITIVES, find_primitive

__all__ = [
    "PRIMITIVES",
    "complex",
    "contraction",
    "control",
    "cumulative",
    "eigen",
    "elementwise",
    "exponential",
    "factorization",
    "find_primitive",
    "indexing",
    "linalg",
    "reduction",
    "rounding",
    "selection",
    "shaping",
    "singular",
    "transcendental",
    "triangular",
]
