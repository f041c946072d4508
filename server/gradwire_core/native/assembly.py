"""Operations on single numbers as a module of LLVM's language: straight code in functions of bounded length, and loops.

Numbers have places in memory: inputs, then constants, then what operations compute, then the outputs. Operations stay as they are,
in the order in which they are listed, so that the bits are those of the same operations in Python's floats. The text is made of
templates and numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradwire_core.native.instructions import COPY, DECLARATIONS, TEMPLATES, TRUTHS, Number, literal
from gradwire_core.native.parts import Loop, Places, Straight
from gradwire_core.native.repeats import find_repeats
from gradwire_core.types import Array

CHUNK = 1000
"""So many operations make a function: LLVM takes more than in proportion for longer ones."""
MOST_STRAIGHT = 200_000
"""So many operations that are in no loop are compiled."""
FEWEST_SAVED = 256
"""Blocks become a loop where it saves so many operations: shorter ones are faster in a row."""
NEAR = 128
"""Alike blocks take the same operand where it is up to so many places before."""

ENTRY = "run"
"""The name of the function of a module, which takes the address of memory."""

_CODES = {name: number for number, name in enumerate([*TEMPLATES, COPY])}


@dataclass(frozen=True, eq=False)
class Listing:
    """Operations on places: those of inputs come first, then those of constants, and then one for each operation.

    Attributes:
        inputs: for each input number, whether it is a truth value.
        constants: numbers.
        operations: names of `TEMPLATES`, in order.
        operands: the places of their operands, three for each, -1 where there are fewer.
        outputs: places.
    """

    inputs: Sequence[bool]
    constants: Sequence[Number]
    operations: Sequence[str]
    operands: Array
    outputs: Sequence[int]


class Assembly(NamedTuple):
    """A module in LLVM's language.

    Attributes:
        text: of the module. Its function `ENTRY` takes the address of memory: inputs, constants, what it keeps, and the outputs,
            each as a float64; truth values are 0.0 and 1.0; then the addresses of functions.
        size: how many numbers memory holds.
        functions: whose addresses these are, by the names of operations.
    """

    text: str
    size: int
    functions: tuple[str, ...]


def assemble(listing: Listing) -> Assembly | None:
    """Return the module of a listing; None where too many operations are in no loop."""
    places = _places(listing)
    parts = _split(places)
    if sum(part.stop - part.start for part in parts if isinstance(part, Straight)) > MOST_STRAIGHT:
        return None
    for part in parts:
        part.mark()
    size = places.arrange([part for part in parts if isinstance(part, Loop)])
    functions = [f"define internal void @part{number}(ptr %m) {{\n{part.text()}\n}}\n" for number, part in enumerate(parts)]
    calls = "".join([f"  call void @part{number}(ptr %m)\n" for number in range(len(parts))])
    entry = f"define void @{ENTRY}(ptr %m) {{\n{calls}  ret void\n}}\n"
    return Assembly("\n".join([*DECLARATIONS, *places.tables, *functions, entry]), size, tuple(places.functions))


def _places(listing: Listing) -> Places:
    """Return what is known of places; outputs are operations that copy."""
    count, outputs = len(listing.inputs), len(listing.outputs)
    copies = np.full((outputs, 3), -1)
    copies[:, 0] = listing.outputs
    operations = [*listing.operations, *[COPY] * outputs]
    is_truth = [*listing.inputs, *[isinstance(value, bool) for value in listing.constants]]
    is_truth += [name in TRUTHS for name in operations]
    is_kept = np.zeros(len(is_truth), bool)
    is_kept[: count + len(listing.constants)] = True
    is_kept[len(is_kept) - outputs :] = True
    return Places(
        base=count + len(listing.constants),
        literals={place: literal(value) for place, value in enumerate(listing.constants, count)},
        operations=operations,
        operands=np.concatenate([listing.operands.reshape(-1, 3), copies]),
        is_truth=is_truth,
        is_kept=is_kept,
        addresses=np.empty(0, np.int64),
    )


def _split(places: Places) -> list[Straight | Loop]:
    """Return the parts, in order."""
    parts: list[Straight | Loop] = []
    at = 0
    for repeat in find_repeats(_codes(places), FEWEST_SAVED):
        loop = Loop(places, repeat)
        if loop.is_regular:
            parts += [*_straight(places, at, repeat.start), loop]
            at = repeat.stop
    return [*parts, *_straight(places, at, len(places.operations))]


def _straight(places: Places, start: int, stop: int) -> Iterator[Straight]:
    for at in range(start, stop, CHUNK):
        yield Straight(places, at, min(at + CHUNK, stop))


def _codes(places: Places) -> Array:
    """Return a number for each operation, which those of alike blocks share."""
    operands = places.operands
    distances = np.arange(places.base, places.base + len(operands))[:, None] - operands
    kinds = np.where(distances <= NEAR, distances + 3, 3)
    for kind, limit in enumerate((0, min(places.literals, default=places.base), places.base)):  # none, inputs, constants
        kinds = np.where((operands < limit) & (kinds >= 3), kind, kinds)
    found = np.array([_CODES[name] for name in places.operations])
    for column in range(operands.shape[1]):
        found = found * (NEAR + 4) + kinds[:, column]
    return found
