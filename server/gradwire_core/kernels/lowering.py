"""Operations of a tape as calls over columns: what NumPy has a ufunc for is one call, a selection is made of bits.

    where(c, x, y) = y ^ ((x ^ y) & m),  m = -1 where c holds, else 0

The mask of a condition, and the masked difference of a pair, serve all selections that take them: exchanging a pair takes four
calls, a quarter of the time of copying where a condition holds. Every bit of a NaN is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradwire_core.kernels.blocks import WRITING
from gradwire_core.kernels.prices import ELEMENT_SECONDS, element_seconds
from gradwire_core.kernels.tape import Tape
from gradwire_core.ops import PRIMITIVES
from gradwire_core.types import Array, Dtype

TO_BOOL = frozenset({
    "equal", "greater", "greater_equal", "isfinite", "isnan", "less", "less_equal", "logical_and", "logical_not", "logical_or",
    "logical_xor", "not_equal",
})  # fmt: skip
"""Operations whose results are bools."""


class Operation(NamedTuple):
    """One call over columns.

    Attributes:
        function: takes the operands, what it writes into, and scratch columns.
        operands: the values that it takes.
        result: the value that it makes.
        are_bits: of the operands and the result, which are taken as integers of the same bits.
        scratch_count: how many scratch columns it needs.
        is_writing_over: whether it may write over its operands.
        seconds: predicted, for one number.
    """

    function: Callable[..., Any]
    operands: tuple[int, ...]
    result: int
    are_bits: tuple[bool, ...]
    scratch_count: int = 0
    is_writing_over: bool = True
    seconds: float = ELEMENT_SECONDS


class Lowered(NamedTuple):
    """A tape as calls.

    Attributes:
        once: on numbers that all samples share, in order.
        columns: on columns, in order.
        dtypes: of every value: float64, or bool.
        shared: the values that all samples share.
    """

    once: list[Operation]
    columns: list[Operation]
    dtypes: dict[int, Dtype]
    shared: set[int]


def lower(tape: Tape, input_dtypes: Sequence[Dtype], are_shared: Sequence[bool]) -> Lowered:
    """Return the calls of a tape, of which some inputs are the same numbers for all samples."""
    return _Lowering(tape, input_dtypes, are_shared).run()


class _Lowering:
    """The calls of a tape under construction."""

    def __init__(self, tape: Tape, input_dtypes: Sequence[Dtype], are_shared: Sequence[bool]) -> None:
        self._tape = tape
        self._found = Lowered([], [], {}, set(tape.constants))
        dtypes = self._found.dtypes
        for register, number in tape.constants.items():
            dtypes[register] = Dtype.BOOL if isinstance(number, bool) else Dtype.FLOAT64
        for registers, dtype, is_shared in zip(tape.inputs, input_dtypes, are_shared, strict=True):
            dtypes.update(dict.fromkeys(registers.ravel().tolist(), dtype))
            if is_shared:
                self._found.shared.update(registers.ravel().tolist())
        self._count = max([*dtypes, *[register for register, _, _ in tape.rows]], default=0) + 1
        self._made: dict[Any, int] = {}

    def run(self) -> Lowered:
        """Return the calls."""
        needed = {register for registers in self._tape.outputs for register in registers.ravel().tolist()}
        for register, _, operands in reversed(self._tape.rows):
            if register in needed:
                needed.update(operands)
        for register, name, operands in self._tape.rows:
            if register in needed:
                self._lower(register, name, operands)
        return self._found

    def _lower(self, register: int, name: str, operands: tuple[int, ...]) -> None:
        if name == "where" and operands[0] not in self._found.shared:
            self._select(register, *operands)
            return
        seconds = element_seconds(name)
        dtype = Dtype.BOOL if name in TO_BOOL else Dtype.FLOAT64
        kernel = PRIMITIVES[name].kernel
        bits = (False,) * (len(operands) + 1)
        if kernel in KEYWORD_OUT:
            self._add(Operation(KEYWORD_OUT[kernel], operands, register, bits, seconds=seconds), dtype)
        elif isinstance(kernel, np.ufunc):
            self._add(Operation(kernel, operands, register, bits, seconds=seconds), dtype)
        else:
            function, count = WRITING[name] if name in WRITING else (_copying(kernel), 0)
            self._add(Operation(function, operands, register, bits, count, is_writing_over=False, seconds=seconds), dtype)

    def _add(self, operation: Operation, dtype: Dtype = Dtype.FLOAT64) -> int:
        result, shared = operation.result, self._found.shared
        is_shared = shared.issuperset(operation.operands)
        (self._found.once if is_shared else self._found.columns).append(operation)
        self._found.dtypes[result] = dtype
        if is_shared:
            shared.add(result)
        return result

    # -- selections --------------------------------------------------------------------------------------------------------------

    def _select(self, register: int, condition: int, x: int, y: int) -> None:
        mask = self._make(_to_mask, (condition,), (False, True), is_writing_over=False)
        if self._is_zero(y):
            self._add(Operation(np.bitwise_and, (x, mask), register, (True,) * 3))
        elif self._is_zero(x):
            others = self._make(np.invert, (mask,), (True, True))
            self._add(Operation(np.bitwise_and, (y, others), register, (True,) * 3))
        else:
            pair = (x, y) if x < y else (y, x)
            difference = self._make(np.bitwise_xor, pair, (True,) * 3)
            masked = self._make(np.bitwise_and, (difference, mask), (True,) * 3)
            self._add(Operation(np.bitwise_xor, (y, masked), register, (True,) * 3))

    def _make(
        self, function: Callable[..., Any], operands: tuple[int, ...], are_bits: tuple[bool, ...], *, is_writing_over: bool = True
    ) -> int:
        """Return a value that selections share."""
        key = (function, operands)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._count
            self._count += 1
            self._add(Operation(function, operands, found, are_bits, is_writing_over=is_writing_over))
        return found

    def _is_zero(self, register: int) -> bool:
        number = self._tape.constants.get(register)
        return number is not None and np.float64(number).tobytes() == _ZERO


_ZERO = np.float64(0.0).tobytes()


def _to_mask(condition: Array, out: Array) -> None:
    np.copyto(out, condition)
    np.negative(out, out)


def _copying(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return what has a kernel's result in given memory."""

    def run(*given: Array) -> None:
        *operands, out = given
        out[...] = kernel(*operands)

    return run


# These two ufuncs take the memory of their result by keyword only.
KEYWORD_OUT: dict[Any, Callable[..., Any]] = {
    np.maximum: lambda x, y, out: np.maximum(x, y, out=out),
    np.minimum: lambda x, y, out: np.minimum(x, y, out=out),
}
