"""The namespace of the Array API standard for traced arrays: what `x.__array_namespace__()` of one is.

Functions written to the standard work traced as they are. Most names are NumPy's own, which dispatch; those are here whose
signature is another in the standard. What needs values while tracing (`nonzero`, `unique_values`) raises TracingError.

Example:
    >>> import numpy as np, gradwire as gw
    >>> def spread(x):
    ...     xp = x.__array_namespace__()
    ...     return xp.std(x, correction=1)
    >>> gw.grad(spread)(np.array([0.0, 1.0])).round(12)
    array([-0.70710678,  0.70710678])
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gradwire import linalg as linalg  # noqa: PLC0414  # the extension of the standard
from gradwire import numpy as own_numpy
from gradwire_core.builder import Value
from gradwire_core.errors import ArgumentError
from gradwire_core.types import Dtype

__array_api_version__ = "2024.12"

bool = np.bool
complex64, complex128, float32, float64, int32, int64 = np.complex64, np.complex128, np.float32, np.float64, np.int32, np.int64
e, inf, nan, newaxis, pi = np.e, np.inf, np.nan, np.newaxis, np.pi
fft = np.fft

_OF_NUMPY = (
    "abs", "acos", "acosh", "add", "all", "any", "arange", "argmax", "argmin", "asin", "asinh", "atan", "atan2", "atanh",
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "broadcast_arrays",
    "broadcast_to", "can_cast", "ceil", "clip", "concat", "conj", "copysign", "cos", "cosh", "count_nonzero", "cumulative_prod",
    "cumulative_sum", "diff", "divide", "empty", "empty_like", "equal", "exp", "expand_dims", "expm1", "eye", "flip", "floor",
    "floor_divide", "from_dlpack", "full", "full_like", "greater", "greater_equal", "hypot", "iinfo", "imag", "isdtype", "isfinite",
    "isinf", "isnan", "less", "less_equal", "linspace", "log", "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not",
    "logical_or", "logical_xor", "matmul", "matrix_transpose", "max", "maximum", "mean", "meshgrid", "min", "minimum", "moveaxis",
    "multiply", "negative", "nextafter", "nonzero", "not_equal", "ones", "ones_like", "permute_dims", "positive", "pow", "prod",
    "real", "reciprocal", "remainder", "repeat", "result_type", "roll", "round", "searchsorted", "sign", "signbit", "sin", "sinh",
    "sqrt", "square", "squeeze", "stack", "subtract", "sum", "take", "tan", "tanh", "tensordot", "tile", "tril", "triu", "trunc",
    "unique_all", "unique_counts", "unique_inverse", "unique_values", "where", "zeros", "zeros_like",
)  # fmt: skip
globals().update({name: getattr(np, name) for name in _OF_NUMPY if hasattr(np, name)})


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: Any = None) -> Any:
    """Return numbers, nested lists of them, arrays or traced arrays as an array."""
    del copy  # a traced array is never written to
    _check_device(device)
    return own_numpy.array(obj, dtype)


def astype(x: Any, dtype: Any, /, *, copy: Any = True, device: Any = None) -> Any:
    """Return the elements in another dtype."""
    del copy
    _check_device(device)
    return x.astype(dtype)


def finfo(type: Any, /) -> Any:
    """Return the limits of a floating dtype, or of the dtype of an array."""
    return np.finfo(type.dtype if isinstance(type, Value) else type)


def reshape(x: Any, /, shape: tuple[int, ...], *, copy: Any = None) -> Any:
    """Return the elements, in row-major order, in another shape."""
    del copy
    return np.reshape(x, shape)


def sort(x: Any, /, *, axis: int = -1, descending: Any = False, stable: Any = True) -> Any:
    """Return the elements in order along an axis."""
    del stable  # equal numbers are alike
    found = np.sort(x, axis)
    return np.flip(found, axis) if descending else found


def argsort(x: Any, /, *, axis: int = -1, descending: Any = False, stable: Any = True) -> Any:
    """Return the places of the elements in order along an axis; those of equal elements stay in order."""
    del stable
    if not descending:
        return np.argsort(x, axis, stable=True)
    found = np.argsort(np.flip(x, axis), axis, stable=True)
    return np.flip(x.shape[axis] - 1 - found, axis)


def std(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: Any = False) -> Any:
    """Return the standard deviation, with the count less `correction`."""
    return np.std(x, axis, ddof=correction, keepdims=keepdims)


def var(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: Any = False) -> Any:
    """Return the variance, with the count less `correction`."""
    return np.var(x, axis, ddof=correction, keepdims=keepdims)


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """Return the elements at indices along an axis."""
    return np.take_along_axis(x, indices, axis)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """Return the parts of an array along an axis."""
    return tuple(np.moveaxis(x, axis, 0))


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    """Return the dot products of vectors along an axis; the first is conjugated."""
    return linalg.vecdot(x1, x2, axis=axis)


class Info:
    """What the namespace has: `__array_namespace_info__()`."""

    def capabilities(self) -> dict[str, Any]:
        """Return what is possible: no shape may depend on values."""
        return {"boolean indexing": False, "data-dependent shapes": False, "max dimensions": 64}

    def default_device(self) -> str:
        """Return the device of new arrays."""
        return "cpu"

    def devices(self) -> list[str]:
        """Return the devices."""
        return ["cpu"]

    def default_dtypes(self, *, device: Any = None) -> dict[str, Any]:
        """Return the dtypes of new arrays."""
        _check_device(device)
        kinds = {
            "real floating": Dtype.FLOAT64,
            "complex floating": Dtype.COMPLEX128,
            "integral": Dtype.INT64,
            "indexing": Dtype.INT64,
        }
        return {kind: dtype.numpy for kind, dtype in kinds.items()}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, Any]:
        """Return the dtypes, all or those of a kind."""
        _check_device(device)
        return {item.value: item.numpy for item in Dtype if kind is None or np.isdtype(item.numpy, kind)}


def __array_namespace_info__() -> Info:  # noqa: N807  # the standard's name
    """Return what the namespace has."""
    return Info()


def _check_device(device: Any) -> None:
    if device not in (None, "cpu"):
        raise ArgumentError(f"device: needed 'cpu', got {device!r}; leave it out", given=device)


_OWN = (
    "argsort", "asarray", "astype", "bool", "complex128", "complex64", "e", "fft", "finfo", "float32", "float64", "inf", "int32",
    "int64", "linalg", "nan", "newaxis", "pi", "reshape", "sort", "std", "take_along_axis", "unstack", "var", "vecdot",
)  # fmt: skip
__all__ = [name for name in (*_OF_NUMPY, *_OWN) if name in globals()]
