"""Complex numbers: their parts, conjugation, and how they are made of two real ones.

What a derivative is in complex numbers is said in docs/decisions/0005-complex.md: tangents are complex numbers, a transpose never
conjugates, and of a real part the cotangent is `ct`, of an imaginary part `-i ct`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements
from gradwire_core.errors import DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, by_position, call, declare, draw, size_flops, zeros_of
from gradwire_core.program import Derivative, Primitive
from gradwire_core.types import Array, Dtype, TensorType

PARTS = {Dtype.COMPLEX128: Dtype.FLOAT64, Dtype.COMPLEX64: Dtype.FLOAT32}
WHOLES = {part: whole for whole, part in PARTS.items()}


def is_complex(x: Any) -> bool:
    """Whether an array, traced or not, is of a complex dtype."""
    return bool(x.dtype.kind == "c") if isinstance(x, Value) else np.iscomplexobj(x)


def _samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape in ((), (3,), (2, 3)):
        for dtype in ("complex128", "complex64"):
            yield Sample(((draw(rng, *shape) + 1j * draw(rng, *shape)).astype(dtype),))


def _complex_primitive(
    name: str,
    kernel: Callable[..., Any],
    infer: Callable[..., tuple[TensorType, ...]],
    *derivatives: Derivative,
    doc: str,
    samples: Any = _samples,
) -> Primitive:
    primitive = declare(
        Primitive(
            name=name,
            kernel=kernel,
            infer=infer,
            derivative=by_position(*derivatives),
            batch=lambda batched, operands, params: call(primitive, *_spread(batched, operands)),
            arity=len(derivatives),
            params=(),
            doc=doc,
            samples=samples,
            flops=size_flops,
            is_elementwise=True,
        )
    )
    return primitive


def _spread(batched: Any, operands: Any) -> list[Any]:
    from gradwire_core.ops.shaping import broadcast_to

    (shape,) = {item.shape for item, flag in zip(operands, batched, strict=True) if flag}
    return [item if flag else broadcast_to(item, shape) for item, flag in zip(operands, batched, strict=True)]


def _check_complex(where: str, x: TensorType) -> None:
    if x.dtype not in PARTS:
        raise DtypeError(f"{where}: needed a complex operand, got {x}; leave the call out, or convert it", given=x)


def _infer_real(x: TensorType) -> tuple[TensorType, ...]:
    _check_complex("real", x)
    return (x.with_dtype(PARTS[x.dtype]),)


def _infer_imag(x: TensorType) -> tuple[TensorType, ...]:
    _check_complex("imag", x)
    return (x.with_dtype(PARTS[x.dtype]),)


def _infer_conj(x: TensorType) -> tuple[TensorType, ...]:
    _check_complex("conj", x)
    return (x,)


def _infer_complex(x: TensorType, y: TensorType) -> tuple[TensorType, ...]:
    if x.dtype not in WHOLES or x.dtype is not y.dtype:
        raise DtypeError(f"complex: needed two operands of one real floating dtype, got {x} and {y}; convert them", given=(x, y))
    if x.shape != y.shape:
        raise ShapeError(f"complex: operands must have one shape, got {x} and {y}; broadcast them", given=(x, y))
    return (x.with_dtype(WHOLES[x.dtype]),)


def _real_kernel(x: Array) -> Array:
    return np.array(np.real(x))


def _imag_kernel(x: Array) -> Array:
    return np.array(np.imag(x))


def _complex_kernel(x: Array, y: Array) -> Array:
    # By its parts, for x + 1j * y is NaN where y is infinite.
    result = np.empty(np.shape(x), np.result_type(x, np.complex64))
    result.real = x
    result.imag = y
    return result


def _absent_part(ct: Any) -> Any:
    return zeros_of(TensorType.of(ct) if isinstance(ct, np.ndarray) else ct.type, ct)


_real: Primitive = _complex_primitive(
    "real", _real_kernel, _infer_real, Linear(lambda ct, x: call(_complex, ct, _absent_part(ct))), doc="Real part of a complex x."
)
_imag: Primitive = _complex_primitive(
    "imag",
    _imag_kernel,
    _infer_imag,
    Linear(lambda ct, x: call(_complex, _absent_part(ct), -ct)),
    doc="Imaginary part of a complex x.",
)
_conj: Primitive = _complex_primitive(
    "conj",
    np.conjugate,
    _infer_conj,
    Linear(lambda ct, x: call(_conj, ct)),
    doc="Complex conjugate; its derivative is conjugation, which is not complex-linear.",
)


def _complex_tangent(x: Any, y: Any) -> Any:
    present = y if x is None else x
    zeros = _absent_part(present)
    return call(_complex, zeros if x is None else x, zeros if y is None else y)


_complex: Primitive = _complex_primitive(
    "complex",
    _complex_kernel,
    _infer_complex,
    Linear(lambda ct, x, y: call(_real, ct), _complex_tangent, joint=True),
    Linear(lambda ct, x, y: -call(_imag, ct), _complex_tangent, joint=True),
    doc="The complex number x + i y.",
    samples=lambda rng: [
        Sample((draw(rng, *shape, dtype=dtype), draw(rng, *shape, dtype=dtype)))
        for shape in ((), (3,), (2, 3))
        for dtype in ("float64", "float32")
    ],
)

# -- NumPy's names -----------------------------------------------------------------------------------------------------------


@implements(np.real)
def real(x: Any) -> Any:
    """Return the real part; a real array itself."""
    return call(_real, x) if is_complex(x) else x


@implements(np.imag)
def imag(x: Any) -> Any:
    """Return the imaginary part; zeros for a real array."""
    return call(_imag, x) if is_complex(x) else _absent_part(x)


@implements(np.conjugate)
def conj(x: Any) -> Any:
    """Return the complex conjugate; a real array itself."""
    return call(_conj, x) if is_complex(x) else x


def complex(x: Any, y: Any) -> Any:
    """Return the complex array x + i y of two real ones of one type."""
    return call(_complex, x, y)


@implements(np.angle)
def angle(z: Any, deg: bool = False) -> Any:
    """Return the angle of complex numbers in radians, or degrees."""
    found = np.arctan2(imag(z), real(z))
    return np.rad2deg(found) if deg else found


@implements(np.iscomplexobj)
def iscomplexobj(x: Any) -> bool:
    """Return whether the dtype is complex."""
    return is_complex(x)


@implements(np.isrealobj)
def isrealobj(x: Any) -> bool:
    """Return whether the dtype is not complex."""
    return not is_complex(x)


@implements(np.iscomplex)
def iscomplex(x: Any) -> Any:
    """Return where the imaginary part is not zero."""
    return np.not_equal(imag(x), 0)


@implements(np.isreal)
def isreal(x: Any) -> Any:
    """Return where the imaginary part is zero."""
    return np.equal(imag(x), 0)
