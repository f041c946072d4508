"""What the Array API standard asks of an array, and of dtypes beside arrays: nothing here computes.

`gradwire._tracing` imports this, which registers it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from gradwire_core.builder import Value, implements

VERSIONS = (None, "2021.12", "2022.12", "2023.12", "2024.12")


@implements(Value.__array_namespace__)
def namespace(x: Value, api_version: str | None) -> ModuleType:
    """Return the module of the standard, for traced arrays.

    Raises:
        ValueError: there is no such version of it here, as the standard has it.
    """
    from gradwire import array_api

    del x
    if api_version not in VERSIONS:
        raise ValueError(f"array_api: needed a version up to {VERSIONS[-1]}, got {api_version!r}; leave it out")
    return array_api


@implements(np.result_type)
def result_type(*arrays_and_dtypes: Any) -> Any:
    """Return the dtype that operands are promoted to, NumPy's."""
    return np.result_type(*map(_without_values, arrays_and_dtypes))


@implements(np.can_cast)
def can_cast(from_: Any, to: Any, casting: Any = "safe") -> bool:
    """Return whether a dtype can be converted to another without loss."""
    return np.can_cast(_without_values(from_), to, casting)


def _without_values(item: Any) -> Any:
    return item.dtype if isinstance(item, Value) else item
