"""The operations of gradwire, each declared once; importing this package fills the registry `PRIMITIVES`."""

from gradwire_core.ops import (
    contraction,
    cumulative,
    eigen,
    elementwise,
    exponential,
    factorization,
    indexing,
    linalg,
    reduction,
    selection,
    shaping,
    singular,
    triangular,
)
from gradwire_core.ops._declare import PRIMITIVES, find_primitive

__all__ = [
    "PRIMITIVES",
    "contraction",
    "cumulative",
    "eigen",
    "elementwise",
    "exponential",
    "factorization",
    "find_primitive",
    "indexing",
    "linalg",
    "reduction",
    "selection",
    "shaping",
    "singular",
    "triangular",
]
