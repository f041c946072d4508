"""What deriving gives, before it is planned: kept under the digest of a program, where another process finds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gradwire_core.kernels.tape import Tape, expand
from gradwire_core.packing import Json, Packer, Unpacker
from gradwire_core.plans import Plans
from gradwire_core.program import Literal, Program
from gradwire_core.structure.sparse import SparseSpec
from gradwire_core.structure.strategy import Choice
from gradwire_core.structure.structured import JacobianSpec
from gradwire_core.types import TensorType

Spec = JacobianSpec | SparseSpec


class Reading(NamedTuple):
    """How the flat results are read: for one Output, how many seeds it takes, where its results stand, what they mean."""

    seed_count: int
    start: int
    stop: int
    specs: tuple[Spec, ...] | None


@dataclass(frozen=True, eq=False)
class Derived:
    """The joint program of some outputs, after every pass.

    Attributes:
        input_types: the types of its inputs.
        equation_count: the number of its equations.
        literal_bytes: the bytes of its literals.
        readings: how its results are read, for each output.
        choices: how derivatives are computed, and why.
        tape: the program as a tape, where that is known already.
        make_program: returns the program.
    """

    input_types: tuple[TensorType, ...]
    equation_count: int
    literal_bytes: int
    readings: tuple[Reading, ...]
    choices: tuple[Choice, ...]
    tape: Tape | None
    make_program: Callable[[], Program]

    @classmethod
    def of(cls, program: Program, readings: Sequence[Reading], choices: Sequence[Choice]) -> Derived:
        """Return what was just derived."""
        literals = {operand for equation in program.equations for operand in equation.operands if isinstance(operand, Literal)}
        nbytes = sum(literal.type.nbytes for literal in literals)
        count = len(program.equations)
        return cls(program.input_types, count, nbytes, tuple(readings), tuple(choices), None, lambda: program)


def keep(plans: Plans, key: Sequence[str], derived: Derived, *, has_tape: bool) -> None:
    """Keep what was derived, and where asked for as a tape too, if it becomes one."""
    packer, program = Packer(), derived.make_program()
    tape = expand(program) if has_tape else None
    content = {
        "inputs": [packer.type(type) for type in derived.input_types],
        "counts": [derived.equation_count, derived.literal_bytes],
        "readings": [
            [*reading[:3], None if reading.specs is None else [packer.spec(spec) for spec in reading.specs]]
            for reading in derived.readings
        ],
        "choices": [packer.choice(choice) for choice in derived.choices],
        "tape": None if tape is None else packer.tape(tape),
        "program": packer.program(program),
    }
    plans.write(key, packer.finish(content))


def find(plans: Plans, key: Sequence[str]) -> Derived | None:
    """Return what is kept under a key; None where nothing is, or nothing that can be read."""
    packed = plans.read(key)
    if packed is None:
        return None
    try:
        return _unpack(Unpacker(packed))
    except Exception:  # noqa: BLE001  # whatever a file holds, what it stands for can be derived
        plans.drop(key)
        return None


def _unpack(unpacker: Unpacker) -> Derived:
    content = unpacker.content
    tape = None if content["tape"] is None else unpacker.tape(content["tape"])
    program = None if tape is not None else unpacker.program(content["program"])  # what cannot be read shows now
    count, literal_bytes = content["counts"]
    return Derived(
        tuple([unpacker.type(item) for item in content["inputs"]]),
        count,
        literal_bytes,
        tuple([_reading(unpacker, item) for item in content["readings"]]),
        tuple([unpacker.choice(item) for item in content["choices"]]),
        tape,
        lambda: unpacker.program(content["program"]) if program is None else program,
    )


def _reading(unpacker: Unpacker, packed: Json) -> Reading:
    seed_count, start, stop, specs = packed
    return Reading(seed_count, start, stop, None if specs is None else tuple([unpacker.spec(spec) for spec in specs]))
