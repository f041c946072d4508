"""The programs that the tests are made of: every primitive on its samples, and programs drawn at random."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings

from gradwire_core.builder import Builder
from gradwire_core.errors import GradwireError
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops._declare import call
from gradwire_core.program import Program
from gradwire_core.types import Dtype, TensorType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where `tests` is

DRAWN = 150

_SETTINGS = settings(max_examples=DRAWN, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))

Named = tuple[str, Program, list[Any]]


def of_primitives() -> Iterator[Named]:
    """Yield a program of one equation for each sample of each primitive that has a float64 to differentiate in."""
    for name, primitive in PRIMITIVES.items():
        for number, sample in enumerate(primitive.samples(np.random.default_rng(0))):
            arrays = [np.asarray(operand) for operand in sample.operands]
            if not arrays or arrays[0].dtype != Dtype.FLOAT64.numpy:
                continue
            builder = Builder()
            made = call(primitive, *[builder.input(TensorType.of(array)) for array in arrays], **sample.params)
            outputs = [item for item in (made if isinstance(made, tuple) else (made,)) if item.type.dtype is Dtype.FLOAT64]
            if outputs:
                yield f"{name}, sample {number}", builder.build(outputs[:1]), arrays


def at_random() -> Iterator[Named]:
    """Yield programs drawn at random, the same each time: of plain operations, and with loops and branches."""
    from tests.core.language import language_programs
    from tests.core.strategies import programs

    for what, strategy in (("program", programs(outputs=1)), ("program of the language", language_programs())):
        for number, case in enumerate(_draw(strategy)):
            yield f"{what} {number}", case.program, case.arrays


def _draw(strategy: Any) -> list[Any]:
    drawn: list[Any] = []
    given(strategy)(_SETTINGS(lambda case: drawn.append(case)))()  # noqa: PLW0108  # a method has no name that it takes
    return drawn


def differentiable() -> Iterator[Named]:
    """Yield all of them that have a Jacobian."""
    from gradwire_core.transforms.jacobian import jacobian

    for name, program, arrays in (*of_primitives(), *at_random()):
        try:
            jacobian(program, (0,))
        except GradwireError:
            continue
        yield name, program, arrays
