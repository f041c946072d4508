"""What a tensor is before it has numbers: its dtype and its shape. Nothing else may live here."""

from __future__ import annotations

import enum
import functools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gradwire_core.errors import DtypeError

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]


class Dtype(enum.Enum):
    """The element types of gradwire. float64 and float32 can be differentiated, int64, int32 and bool index and mask."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    COMPLEX128 = "complex128"
    COMPLEX64 = "complex64"
    INT64 = "int64"
    INT32 = "int32"
    BOOL = "bool"

    __hash__ = object.__hash__

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype, in native byte order."""
        return np.dtype(self.value)

    @property
    def is_inexact(self) -> bool:
        """Whether values of this dtype can carry tangents."""
        return self in _INEXACT

    @classmethod
    def of(cls, dtype: Any) -> Dtype:
        """Return the Dtype of a NumPy dtype, a scalar type or a name.

        Raises:
            DtypeError: gradwire has no such dtype.
        """
        found = _BY_NUMPY.get(dtype)
        if found is None:
            native = np.dtype(dtype).newbyteorder("=")
            found = _BY_NUMPY.get(native)
            if found is None:
                names = ", ".join(item.value for item in cls)
                raise DtypeError(f"dtype: needed one of {names}, got {native}; convert with astype", given=native)
        return found

    def __str__(self) -> str:
        return str(self.value)


_INEXACT = frozenset({Dtype.FLOAT64, Dtype.FLOAT32, Dtype.COMPLEX128, Dtype.COMPLEX64})
_BY_NUMPY: dict[Any, Dtype] = {item.numpy: item for item in Dtype}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A dtype and a static shape; prints as `float64[3,4]`."""

    dtype: Dtype
    shape: Shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of a dense array of this type."""
        return self.size * self.dtype.numpy.itemsize

    @classmethod
    def of(cls, array: Array) -> TensorType:
        """Return the type of a NumPy array; those of equal arrays are mostly one object."""
        return _type_of(array.dtype, array.shape)

    def with_shape(self, shape: Shape) -> TensorType:
        """Return the type of the same dtype and another shape."""
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: Dtype) -> TensorType:
        """Return the type of the same shape and another dtype."""
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@functools.lru_cache(maxsize=4096)
def _type_of(dtype: np.dtype[Any], shape: Shape) -> TensorType:
    return TensorType(Dtype.of(dtype), shape)
