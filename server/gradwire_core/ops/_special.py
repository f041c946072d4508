"""How a special function is declared: an elementwise primitive of real numbers, whose kernel comes from SciPy when first needed.

The first operands may be orders: integers or floating numbers, in which no derivative is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import FOREIGN
from gradwire_core.errors import DtypeError, NotDifferentiableError, ShapeError
from gradwire_core.ops._declare import Elementwise, Sample, Tangent, by_position, declare, draw
from gradwire_core.program import Derivative, Primitive
from gradwire_core.types import Array, Dtype, TensorType

REAL = (Dtype.FLOAT64, Dtype.FLOAT32)
INTEGERS = (Dtype.INT64, Dtype.INT32)
Interval = tuple[float, float]


def from_scipy(name: str) -> Callable[..., Any]:
    """Return the kernel that is a function of `scipy.special`."""

    def kernel(*operands: Array) -> Array:
        import scipy.special

        return getattr(scipy.special, name)(*operands)  # type: ignore[no-any-return]

    return kernel


def from_scipy_of_order(name: str) -> Callable[..., Any]:
    """Return the kernel that is a function of `scipy.special`, computed in the dtype of its last operand."""

    def kernel(*operands: Array) -> Array:
        import scipy.special

        dtype = operands[-1].dtype
        return getattr(scipy.special, name)(*[np.asarray(item, dtype) for item in operands])  # type: ignore[no-any-return]

    return kernel


def refused(where: str, what: str) -> Tangent:
    """Return the derivative of a function in an operand in which none is known."""

    def rule(t: Any, z: Any, *operands: Any) -> Any:
        text = f"{where}: needed operands of known derivative, got a tangent of {what}; pass a constant, or use stop_gradient"
        raise NotDifferentiableError(text, given=what)

    return Tangent(rule)


class SpecialFunction(Elementwise):
    """A special function as users call it: operands become floating and are broadcast; integer orders stay what they are."""

    def __init__(self, primitive: Primitive, orders: int) -> None:
        super().__init__(primitive, np.hypot)
        self._orders = orders

    def _input_dtypes(self, given: tuple[Any, ...]) -> tuple[np.dtype[Any], ...]:
        orders, rest = given[: self._orders], given[self._orders :]
        arrays = [item for item in given if isinstance(item, np.dtype)]
        counted = [item for item in orders if isinstance(item, np.dtype) and item.kind != "f"]
        if any(item.kind == "c" for item in arrays) or any(isinstance(item, complex) for item in given):
            names = ", ".join(str(item) for item in given)
            raise DtypeError(f"{self.__name__}: needed real operands, got {names}; take their real parts", given=names)
        strong = [item for item in arrays if item not in counted]
        common = np.result_type(*strong) if strong else np.dtype(np.float64)
        dtype = Dtype.of(common if common.kind == "f" else np.float64).numpy
        return (*[_order_dtype(item, dtype) for item in orders], *[dtype for _ in rest])


def _order_dtype(given: Any, floating: np.dtype[Any]) -> np.dtype[Any]:
    if isinstance(given, np.dtype):
        return floating if given.kind == "f" else Dtype.of(given if given.kind == "i" else np.int64).numpy
    return floating if isinstance(given, float) else np.dtype(np.int64)


def special(
    name: str,
    *derivatives: Derivative,
    doc: str,
    domain: Interval | Sequence[Interval] = (-3.0, 3.0),
    orders: int = 0,
    order_domain: Interval = (0.0, 4.0),
    kernel: Callable[..., Any] | None = None,
    flops: float = 50.0,
) -> SpecialFunction:
    """Declare a special function of as many operands as it has derivatives.

    Args:
        name: the name of the primitive, and of the function of `scipy.special` where no kernel is given.
        derivatives: one for each operand.
        doc: one sentence, with the convention at kinks and edges.
        domain: the interval tests sample operands other than orders from, or one for each.
        orders: how many of the first operands are orders.
        order_domain: the interval tests sample integer orders from.
        kernel: a function of arrays, where it is not that of SciPy.
        flops: predicted operations an element.
    """
    arity = len(derivatives)
    intervals: list[Any] = [domain] * (arity - orders) if isinstance(domain[0], float) else list(domain)

    def infer(*types: TensorType) -> tuple[TensorType, ...]:
        return (infer_special(name, orders, types),)

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for shape, dtype in (((), "float64"), ((3,), "float32"), ((2, 3), "float64")):
            counts = [draw(rng, *shape, dtype="int64", low=order_domain[0], high=order_domain[1]) for _ in range(orders)]
            yield Sample((*counts, *[draw(rng, *shape, dtype=dtype, low=low, high=high) for low, high in intervals]))

    primitive = declare(
        Primitive(
            name=name,
            kernel=kernel or (from_scipy_of_order(name) if orders else from_scipy(name)),
            infer=infer,
            derivative=by_position(*derivatives),
            batch=lambda batched, operands, params: op(*operands),
            arity=arity,
            params=(),
            doc=doc,
            samples=samples,
            flops=lambda *types: float(flops * types[0].size),
            is_elementwise=True,
        )
    )
    op = SpecialFunction(primitive, orders)
    FOREIGN[f"scipy.special.{name}"] = op
    return op


def infer_special(name: str, orders: int, types: tuple[TensorType, ...]) -> TensorType:
    last = types[-1]
    if any(type.shape != last.shape for type in types):
        names = " and ".join(map(str, types))
        raise ShapeError(f"{name}: operands must have one shape, got {names}; broadcast them", given=names)
    fits = [type.dtype is last.dtype or (place < orders and type.dtype in INTEGERS) for place, type in enumerate(types)]
    if last.dtype not in REAL or not all(fits):
        names = ", ".join(map(str, types))
        kinds = "floating operands of one dtype" + (f", the first {orders} of them integers or such" if orders else "")
        raise DtypeError(f"{name}: needed {kinds}, got {names}; convert them", given=names)
    return last
