"""The operations of gradwire, each declared once; importing this package fills the registry `PRIMITIVES`."""

from gradwire_core.ops import contraction, cumulative, elementwise, indexing, linalg, reduction, selection, shaping, triangular
from gradwire_core.ops._declare import PRIMITIVES, find_primitive

__all__ = [
    "PRIMITIVES",
    "contraction",
    "cumulative",
    "elementwise",
    "find_primitive",
    "indexing",
    "linalg",
    "reduction",
    "selection",
    "shaping",
    "triangular",
]
