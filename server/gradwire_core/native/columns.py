"""Batches compiled by LLVM: all operations on a sample in one loop over samples, block by block.

    inputs --columns of a block, side by side--> all operations, sample by sample, in registers --columns--> outputs

A block is turned before and after, so that the loop in between reads and writes neighbouring numbers and becomes a vector loop. The
source is made of templates and numbers alone: no text of a program enters it. Values differ from NumPy's in their last bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradwire_core.native.signatures import BEHAVED, READ, RESULTS, SCRATCH, Run
from gradwire_core.native.templates import TEMPLATES, Template
from gradwire_core.types import Array, Dtype, Shape, TensorType

BLOCK = 256
"""So many samples are turned at a time."""
MOST_COPIED_BYTES = 2**20
"""So much of inputs in another order of memory is copied; more would be memory that no plan has promised."""
MOST_ROWS = 2000
"""More operations take the compiler too long."""

WRITTEN: Mapping[str, Template] = {
    **{name: template for name, template in TEMPLATES.items() if name not in ("convert", "zeros_outside")},
    "logical_xor": Template("{} != {}", (Dtype.BOOL, Dtype.BOOL)),
}


@dataclass(frozen=True)
class Samples:
    """What is computed for each sample.

    Attributes:
        count: the number of samples.
        rows: the operations: the register each assigns, its name, its operands.
        constants: the registers that hold constants, with these.
        inputs: of each input the type, the registers of its elements, and where it has the lanes; no places where all share it.
        outputs: the same of each output.
    """

    count: int
    rows: Sequence[tuple[int, str, tuple[int, ...]]]
    constants: Mapping[int, float | bool]
    inputs: Sequence[tuple[TensorType, Array, tuple[int, ...]]]
    outputs: Sequence[tuple[TensorType, Array, tuple[int, ...]]]


def is_written(samples: Samples) -> bool:
    """Whether there is a template of every operation, and samples lie at equal distances in all arrays."""
    edges = [(type, places) for type, _, places in (*samples.inputs, *samples.outputs)]
    return (
        0 < len(samples.rows) <= MOST_ROWS
        and all(name in WRITTEN for _, name, _ in samples.rows)
        and all(places == tuple(range(places[0], places[0] + len(places))) for _, places in edges if places)
        and all(type.dtype in READ for type, _ in edges)
    )


def _offsets(shape: Shape, places: tuple[int, ...]) -> tuple[int, list[int]]:
    """Return how far samples are apart in a row-major array, and where the elements of the first are."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    kept = [axis for axis in range(len(shape)) if axis not in places]
    indices = itertools.product(*[range(shape[axis]) for axis in kept])
    return strides[places[-1]], [sum(item * strides[axis] for item, axis in zip(index, kept, strict=True)) for index in indices]


def _number(value: float | bool) -> str:
    if isinstance(value, bool):
        return str(value)
    if math.isnan(value):
        return "(inf - inf)"
    return repr(value) if math.isfinite(value) else "inf" if value > 0 else "(-inf)"


class _Source:
    """The source of a batch."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._taken = {operand for _, _, operands in samples.rows for operand in operands}
        self._taken.update(register for _, registers, _ in samples.outputs for register in registers.ravel().tolist())
        self._names: dict[int, str] = {}
        self._count = 0
        self._reads: list[str] = []
        self._turns: list[str] = []
        self._stores: list[str] = []
        self._returns: list[str] = []
        self._once: list[str] = []

    def text(self) -> str:
        """Return the source of the function `run(inputs, outputs)`."""
        samples = self._samples
        self._names = {register: _number(value) for register, value in samples.constants.items()}
        for place, edge in enumerate(samples.inputs):
            self._load(f"a{place}", *edge)
        body = self._body()
        for place, edge in enumerate(samples.outputs):
            self._store(f"o{place}", *edge)
        arguments = [f"a{place}" for place in range(len(samples.inputs))] + [f"o{place}" for place in range(len(samples.outputs))]
        return "\n".join(
            [
                f"def run({', '.join([*arguments, 't'])}):",
                "    bad = 0",
                *[f"    {line}" for line in self._once],
                f"    for start in range(0, {samples.count}, {BLOCK}):",
                f"        count = min({BLOCK}, {samples.count} - start)",
                *[f"        {line}" for line in self._turns],
                "        for j in range(count):",
                *[f"            {line}" for line in (*self._reads, *body, *self._stores)],
                *[f"        {line}" for line in self._returns],
                "    return bad",
                "",
            ]
        )

    @property
    def scratch(self) -> int:
        """How many numbers all columns of a block hold."""
        return self._count * BLOCK

    def _column(self) -> str:
        """Return the text of an element of a new column. All stand in one array: so the compiler sees that they do not overlap."""
        place = self._count
        self._count += 1
        return f"t[{place * BLOCK} + j]" if place else "t[j]"

    def _load(self, name: str, type: TensorType, registers: Array, places: tuple[int, ...]) -> None:
        elements = [(item, register) for item, register in enumerate(registers.ravel().tolist()) if register in self._taken]
        if not places:
            self._once += [f"v{register} = {name}[{item}]" for item, register in elements]
        else:
            stride, offsets = _offsets(type.shape, places)
            lines = []
            for item, register in elements:
                column = self._column()
                lines.append(f"    {column} = {name}[(start + j) * {stride} + {offsets[item]}]")
                self._reads.append(f"v{register} = {_given(column, type)}")
            self._turns += ["for j in range(count):", *lines] if lines else []
        self._names.update({register: f"v{register}" for _, register in elements})

    def _body(self) -> list[str]:
        lines, names = [], self._names
        for register, name, operands in self._samples.rows:
            given = [names[operand] for operand in operands]
            template = WRITTEN[name]
            if template.bad:
                lines.append(f"bad |= {template.bad.format(*given)}")
            lines.append(f"v{register} = {template.text.format(*given)}")
            names[register] = f"v{register}"
        return lines

    def _store(self, name: str, type: TensorType, registers: Array, places: tuple[int, ...]) -> None:
        stride, offsets = _offsets(type.shape, places)
        self._returns.append("for j in range(count):")
        for offset, register in zip(offsets, registers.ravel().tolist(), strict=True):
            column = self._column()
            self._stores.append(f"{column} = {self._names[register]}")
            self._returns.append(f"    {name}[(start + j) * {stride} + {offset}] = {_given(column, type)}")


def _given(column: str, type: TensorType) -> str:
    """Return the text of what a column of numbers holds."""
    return f"{column} != 0.0" if type.dtype is Dtype.BOOL else column


class ColumnLoops:
    """A batch as a loop, and what calls it; threads may share it, and it does not hold the interpreter's lock while it runs.

    Args:
        samples: what is computed, of which `is_written` holds.
        compile: returns the function of a source and a signature.

    Attributes:
        source: what was compiled.
    """

    def __init__(self, samples: Samples, compile: Callable[[str, str], Run]) -> None:
        source = _Source(samples)
        self.source = source.text()
        self._scratch = source.scratch
        signature = [f"{READ[type.dtype]}{type.size}" for type, _, _ in samples.inputs]
        signature += [f"{RESULTS[type.dtype]}{type.size}" for type, _, _ in samples.outputs]
        self._outputs = [(type.shape, type.dtype.numpy) for type, _, _ in samples.outputs]
        self._run = compile(self.source, " ".join([*signature, f"{SCRATCH}{self._scratch}"]))

    def __call__(self, *inputs: Array) -> tuple[Array, ...] | None:
        """Return the outputs for the inputs, row-major; None where these are left to others.

        That is where an angle is larger than the functions here take, or too much lies otherwise in memory than row-major.
        """
        if sum(array.nbytes for array in inputs if not array.flags.c_contiguous) > MOST_COPIED_BYTES:
            return None
        arrays = [array if array.flags.num & BEHAVED == BEHAVED else array.copy("C") for array in map(np.asarray, inputs)]
        outputs = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        return None if self._run((*arrays, *outputs, np.empty(self._scratch))) else tuple(outputs)
