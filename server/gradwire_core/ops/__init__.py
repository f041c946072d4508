"""The operations of gradwire, each declared once; importing this package fills the registry `PRIMITIVES`."""

from gradwire_core.ops import contraction, elementwise, indexing, linalg, reduction, shaping
from gradwire_core.ops._declare import PRIMITIVES, find_primitive

__all__ = ["PRIMITIVES", "contraction", "elementwise", "find_primitive", "indexing", "linalg", "reduction", "shaping"]
