"""Discrete Fourier transforms along one axis; NumPy's transforms of several axes, lengths and norms are written over them.

With w = e^(-2 pi i / n), `fft` is the symmetric matrix w^(jk). Derivatives follow the convention of `complex`: a transpose
never conjugates, and what a real operand is given is the real part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.errors import ArgumentError, DtypeError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, by_position, call, constant, convert, declare, draw, normalize_axes
from gradwire_core.ops.complex import PARTS, WHOLES
from gradwire_core.ops.complex import conj as conjugate
from gradwire_core.ops.complex import real as real_part
from gradwire_core.ops.indexing import take
from gradwire_core.ops.shaping import pad_with_zeros, slice_axes
from gradwire_core.program import Primitive
from gradwire_core.types import Dtype, TensorType

Norm = str | None

# -- primitives --------------------------------------------------------------------------------------------------------------


def _check(where: str, x: TensorType, axis: int, dtypes: Sequence[Dtype]) -> None:
    if x.dtype not in dtypes:
        raise DtypeError(f"{where}: needed {' or '.join(map(str, dtypes))}, got {x}; convert it", given=x)
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"{where}: needed an axis of {x}, counted from 0, got {axis}; correct the axis", given=axis)
    if x.shape[axis] == 0:
        raise ShapeError(f"{where}: needed at least one element along axis {axis}, got {x}; pad it", given=x)


def _infer_whole(x: TensorType, *, axis: int, where: str) -> tuple[TensorType, ...]:
    _check(where, x, axis, tuple(PARTS))
    return (x,)


def _with_length(x: TensorType, axis: int, length: int, dtype: Dtype) -> TensorType:
    return TensorType(dtype, (*x.shape[:axis], length, *x.shape[axis + 1 :]))


def _infer_rfft(x: TensorType, *, axis: int) -> tuple[TensorType, ...]:
    _check("rfft", x, axis, tuple(WHOLES))
    return (_with_length(x, axis, x.shape[axis] // 2 + 1, WHOLES[x.dtype]),)


def _infer_irfft(x: TensorType, *, axis: int, length: int) -> tuple[TensorType, ...]:
    _check("irfft", x, axis, tuple(PARTS))
    if length < 1 or length // 2 + 1 != x.shape[axis]:
        needed = f"{2 * x.shape[axis] - 2} or {2 * x.shape[axis] - 1}"
        raise ShapeError(f"irfft: needed a length of {needed} for {x}, got {length}; correct it", given=length)
    return (_with_length(x, axis, length, PARTS[x.dtype]),)


def _flops(x: TensorType, *, axis: int, length: int = 0) -> float:
    return 5.0 * x.size * math.log2(max(2, x.shape[axis]))


def _batch(primitive: Primitive, operands: Sequence[Any], params: Any) -> Any:
    return call(primitive, operands[0], **{**params, "axis": params["axis"] + 1})


def _complex_samples(rng: np.random.Generator) -> list[Sample]:
    return [
        Sample((draw(rng, 5) + 1j * draw(rng, 5),), {"axis": 0}),
        Sample((draw(rng, 2, 4) + 1j * draw(rng, 2, 4),), {"axis": 1}),
        Sample(((draw(rng, 3, 2) + 1j * draw(rng, 3, 2)).astype(np.complex64),), {"axis": 0}),
    ]


def _rfft_transpose(ct: Any, x: TensorType, *, axis: int) -> Any:
    padded = _fit(ct, axis, x.shape[axis])
    return real_part(call(_fft, padded, axis=axis))


def _irfft_transpose(ct: Any, x: TensorType, *, axis: int, length: int) -> Any:
    """Return the cotangent: all but the first and, of an even length, the last coefficient stand for two."""
    weights = np.full(x.shape[axis], 2.0 / length)
    weights[0] = 1.0 / length
    if length % 2 == 0:
        weights[-1] = 1.0 / length
    shape = tuple(-1 if place == axis else 1 for place in range(x.ndim))
    return conjugate(call(_rfft, ct, axis=axis)) * constant(ct, weights.reshape(shape).astype(x.dtype.numpy))


_fft: Primitive = declare(
    Primitive(
        name="fft",
        kernel=lambda x, *, axis: np.fft.fft(x, axis=axis),
        infer=lambda x, *, axis: _infer_whole(x, axis=axis, where="fft"),
        derivative=by_position(Linear(lambda ct, x, *, axis: call(_fft, ct, axis=axis))),
        batch=lambda batched, operands, params: _batch(_fft, operands, params),
        arity=1,
        params=("axis",),
        doc="The discrete Fourier transform along an axis, y_k = sum_j x_j e^(-2 pi i j k / n).",
        samples=_complex_samples,
        flops=_flops,
    )
)
_ifft: Primitive = declare(
    Primitive(
        name="ifft",
        kernel=lambda x, *, axis: np.fft.ifft(x, axis=axis),
        infer=lambda x, *, axis: _infer_whole(x, axis=axis, where="ifft"),
        derivative=by_position(Linear(lambda ct, x, *, axis: call(_ifft, ct, axis=axis))),
        batch=lambda batched, operands, params: _batch(_ifft, operands, params),
        arity=1,
        params=("axis",),
        doc="The inverse discrete Fourier transform along an axis, x_j = (1 / n) sum_k y_k e^(2 pi i j k / n).",
        samples=_complex_samples,
        flops=_flops,
    )
)
_rfft: Primitive = declare(
    Primitive(
        name="rfft",
        kernel=lambda x, *, axis: np.fft.rfft(x, axis=axis),
        infer=_infer_rfft,
        derivative=by_position(Linear(_rfft_transpose)),
        batch=lambda batched, operands, params: _batch(_rfft, operands, params),
        arity=1,
        params=("axis",),
        doc="The first n // 2 + 1 coefficients of the discrete Fourier transform of a real x along an axis, which give the others.",
        samples=lambda rng: [
            Sample((draw(rng, 5),), {"axis": 0}),
            Sample((draw(rng, 2, 4),), {"axis": 1}),
            Sample((draw(rng, 1),), {"axis": 0}),
            Sample((draw(rng, 3, 2, dtype="float32"),), {"axis": 0}),
        ],
        flops=_flops,
    )
)
_irfft: Primitive = declare(
    Primitive(
        name="irfft",
        kernel=lambda x, *, axis, length: np.fft.irfft(x, length, axis),
        infer=_infer_irfft,
        derivative=by_position(Linear(_irfft_transpose)),
        batch=lambda batched, operands, params: _batch(_irfft, operands, params),
        arity=1,
        params=("axis", "length"),
        doc="The real array of a length along an axis whose rfft is x; the imaginary part of what must be real is not used.",
        samples=lambda rng: [
            Sample((draw(rng, 3) + 1j * draw(rng, 3),), {"axis": 0, "length": 4}),
            Sample((draw(rng, 2, 3) + 1j * draw(rng, 2, 3),), {"axis": 1, "length": 5}),
            Sample((draw(rng, 1) + 1j * draw(rng, 1),), {"axis": 0, "length": 1}),
            Sample(((draw(rng, 2, 2) + 1j * draw(rng, 2, 2)).astype(np.complex64),), {"axis": 0, "length": 3}),
        ],
        flops=_flops,
    )
)

# -- NumPy's names -----------------------------------------------------------------------------------------------------------


def _fit(x: Any, axis: int, length: int) -> Any:
    """Return x cut, or padded with zeros, to a length along an axis."""
    present = x.shape[axis]
    if present > length:
        return slice_axes(x, (0,) * x.ndim, tuple(length if place == axis else n for place, n in enumerate(x.shape)), (1,) * x.ndim)
    none = (0,) * x.ndim
    high = tuple(length - present if place == axis else 0 for place in range(x.ndim))
    return pad_with_zeros(x, none, high, none)


def _whole(x: Any) -> Any:
    """Return an array in the complex dtype NumPy transforms it in."""
    return convert(x, np.result_type(x.dtype, np.complex64))


def _real(where: str, x: Any) -> Any:
    if x.dtype.kind == "c":
        raise DtypeError(f"{where}: needed a real array, got {x.dtype}; use fft, or take its real part", given=x.dtype)
    return convert(x, np.result_type(x.dtype, np.float32))


def _length(where: str, given: Any, default: int) -> int:
    length = default if given is None else int(given)
    if length < 1:
        raise ArgumentError(f"{where}: needed a length of at least 1, got {length}; pass n or more elements", given=length)
    return length


def _scaled(where: str, y: Any, norm: Norm, length: int, *, is_inverse: bool) -> Any:
    """Return a transform, which has no factor forward and 1 / n inverse, with the factor of a norm."""
    if norm not in (None, "backward", "ortho", "forward"):
        raise ArgumentError(f"{where}: needed norm 'backward', 'ortho' or 'forward', got {norm!r}; choose one", given=norm)
    if norm == "ortho":
        return y * (math.sqrt(length) if is_inverse else 1 / math.sqrt(length))
    return (y * float(length) if is_inverse else y * (1 / length)) if norm == "forward" else y


def _along(where: str, x: Any, axis: int) -> int:
    (place,) = normalize_axes(where, int(axis), x.ndim)
    return place


def _transform(primitive: Primitive, *, is_inverse: bool) -> Callable[..., Any]:
    where = primitive.name

    def transform(x: Any, n: int | None = None, axis: int = -1, norm: Norm = None, out: Any = None) -> Any:
        _check_out(where, out)
        place = _along(where, x, axis)
        length = _length(where, n, x.shape[place])
        y = call(primitive, _fit(_whole(x), place, length), axis=place)
        return _scaled(where, y, norm, length, is_inverse=is_inverse)

    transform.__name__ = where
    transform.__doc__ = f"{primitive.doc[:-1]}; as `numpy.fft.{where}`."
    return transform


def _check_out(where: str, out: Any) -> None:
    if out is not None:
        raise ArgumentError(f"{where}: needed no out, got one; use the result")


fft = implements(np.fft.fft)(_transform(_fft, is_inverse=False))
ifft = implements(np.fft.ifft)(_transform(_ifft, is_inverse=True))


@implements(np.fft.rfft)
def rfft(x: Any, n: int | None = None, axis: int = -1, norm: Norm = None, out: Any = None) -> Any:
    """Return the coefficients of a real array that determine its transform, as `numpy.fft.rfft`."""
    _check_out("rfft", out)
    place = _along("rfft", x, axis)
    length = _length("rfft", n, x.shape[place])
    return _scaled("rfft", call(_rfft, _fit(_real("rfft", x), place, length), axis=place), norm, length, is_inverse=False)


@implements(np.fft.irfft)
def irfft(x: Any, n: int | None = None, axis: int = -1, norm: Norm = None, out: Any = None) -> Any:
    """Return the real array of given coefficients, by default of even length, as `numpy.fft.irfft`."""
    _check_out("irfft", out)
    place = _along("irfft", x, axis)
    length = _length("irfft", n, 2 * x.shape[place] - 2)
    y = call(_irfft, _fit(_whole(x), place, length // 2 + 1), axis=place, length=length)
    return _scaled("irfft", y, norm, length, is_inverse=True)


OPPOSITE = {None: "forward", "backward": "forward", "ortho": "ortho", "forward": "backward"}


@implements(np.fft.hfft)
def hfft(x: Any, n: int | None = None, axis: int = -1, norm: Norm = None, out: Any = None) -> Any:
    """Return the real transform of an array with Hermitian symmetry, as `numpy.fft.hfft`."""
    length = 2 * x.shape[_along("hfft", x, axis)] - 2 if n is None else n
    return irfft(_conjugated(x), length, axis, _opposite("hfft", norm), out)


@implements(np.fft.ihfft)
def ihfft(x: Any, n: int | None = None, axis: int = -1, norm: Norm = None, out: Any = None) -> Any:
    """Return the coefficients whose Hermitian transform is a real array, as `numpy.fft.ihfft`."""
    return conjugate(rfft(x, n, axis, _opposite("ihfft", norm), out))


def _conjugated(x: Any) -> Any:
    return conjugate(x) if x.dtype.kind == "c" else x


def _opposite(where: str, norm: Norm) -> str:
    found = OPPOSITE.get(norm)
    if found is None:
        raise ArgumentError(f"{where}: needed norm 'backward', 'ortho' or 'forward', got {norm!r}; choose one", given=norm)
    return found


# -- several axes ------------------------------------------------------------------------------------------------------------


def _plan(where: str, x: Any, s: Any, axes: Any, *, is_half_inverse: bool = False) -> list[tuple[int, int]]:
    """Return the axes to transform, in order, with the length of each."""
    if axes is None:
        chosen = list(range(x.ndim)) if s is None else list(range(x.ndim - len(s), x.ndim))
    else:
        chosen = [_along(where, x, axis) for axis in axes]
    if s is not None and len(s) != len(chosen):
        raise ShapeError(f"{where}: needed as many lengths as axes, got {len(s)} and {len(chosen)}; make them agree", given=s)
    lengths = [x.shape[axis] for axis in chosen] if s is None else [int(item) for item in s]
    if s is None and is_half_inverse and chosen:
        lengths[-1] = 2 * x.shape[chosen[-1]] - 2
    return [(axis, x.shape[axis] if length == -1 else length) for axis, length in zip(chosen, lengths, strict=True)]


def _over_axes(where: str, along: Callable[..., Any]) -> Callable[..., Any]:
    def transform(x: Any, s: Any = None, axes: Any = None, norm: Norm = None, out: Any = None) -> Any:
        _check_out(where, out)
        for axis, length in reversed(_plan(where, x, s, axes)):
            x = along(x, length, axis, norm)
        return x

    transform.__name__ = where
    transform.__doc__ = f"Transform along several axes, by default all, as `numpy.fft.{where}`."
    return transform


fftn = implements(np.fft.fftn)(_over_axes("fftn", fft))
ifftn = implements(np.fft.ifftn)(_over_axes("ifftn", ifft))


@implements(np.fft.rfftn)
def rfftn(x: Any, s: Any = None, axes: Any = None, norm: Norm = None, out: Any = None) -> Any:
    """Return the transform of a real array along several axes, half of it along the last, as `numpy.fft.rfftn`."""
    _check_out("rfftn", out)
    *others, (last, length) = _plan("rfftn", x, s, axes)
    y = rfft(x, length, last, norm)
    for axis, count in reversed(others):
        y = fft(y, count, axis, norm)
    return y


@implements(np.fft.irfftn)
def irfftn(x: Any, s: Any = None, axes: Any = None, norm: Norm = None, out: Any = None) -> Any:
    """Return the real array of a transform along several axes, of which the last has half, as `numpy.fft.irfftn`."""
    _check_out("irfftn", out)
    *others, (last, length) = _plan("irfftn", x, s, axes, is_half_inverse=True)
    for axis, count in others:
        x = ifft(x, count, axis, norm)
    return irfft(x, length, last, norm)


def _over_two(where: str, along: Callable[..., Any]) -> Callable[..., Any]:
    def transform(x: Any, s: Any = None, axes: Any = (-2, -1), norm: Norm = None, out: Any = None) -> Any:
        return along(x, s, axes, norm, out)

    transform.__name__ = where
    transform.__doc__ = f"Transform along two axes, by default the last, as `numpy.fft.{where}`."
    return transform


fft2 = implements(np.fft.fft2)(_over_two("fft2", fftn))
ifft2 = implements(np.fft.ifft2)(_over_two("ifft2", ifftn))
rfft2 = implements(np.fft.rfft2)(_over_two("rfft2", rfftn))
irfft2 = implements(np.fft.irfft2)(_over_two("irfft2", irfftn))


@implements(np.fft.fftshift)
def fftshift(x: Any, axes: Any = None) -> Any:
    """Return a spectrum with the zero frequency in the middle of each axis."""
    for axis in normalize_axes("fftshift", axes, x.ndim):
        x = take(x, np.fft.fftshift(np.arange(x.shape[axis])), axis)
    return x


@implements(np.fft.ifftshift)
def ifftshift(x: Any, axes: Any = None) -> Any:
    """Return a spectrum with the zero frequency first along each axis: the inverse of `fftshift`."""
    for axis in normalize_axes("ifftshift", axes, x.ndim):
        x = take(x, np.fft.ifftshift(np.arange(x.shape[axis])), axis)
    return x
