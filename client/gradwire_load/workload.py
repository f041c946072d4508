"""What a scenario sends, encoded beforehand, and the answers that the embedded engine gives to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import gradwire as gw
from gradwire_core.engine import ExecutableCache, Output
from gradwire_core.errors import ArgumentError, GradwireError
from gradwire_core.program import Program
from gradwire_core.structure.structured import StructuredJacobian
from gradwire_core.transforms import Transform
from gradwire_core.types import Array
from gradwire_load.encoding import Encoded
from gradwire_load.programs import find_named
from gradwire_load.scenario import Input, Operation, Scenario
from gradwire_proto.evaluation import decode_result, encode_output
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}
"""How far an answer may be from the embedded engine's, relative to the largest element: last bits may differ under load."""

_SEEDED = {"jvp", "vjp", "hvp"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An operation, ready to be sent.

    Attributes:
        operation: as the scenario has it.
        program: its program.
        outputs: what is asked of it.
        inputs: the inputs of each variant.
        seeds: the tangents or cotangents of each variant, for each output.
        requests: the variants as bytes.
    """

    operation: Operation
    program: Program
    outputs: tuple[Output, ...]
    inputs: tuple[tuple[Array, ...], ...]
    seeds: tuple[tuple[tuple[Array, ...], ...], ...]
    requests: tuple[Encoded, ...]

    @property
    def registration(self) -> pb.CreateProgramRequest:
        """The request that stores the program."""
        return pb.CreateProgramRequest(program=encode_program(self.program))


def prepare(scenario: Scenario) -> list[Prepared]:
    """Return what a scenario sends.

    Raises:
        GradwireError: an operation cannot be computed so; the text names it.
    """
    found = []
    for number, operation in enumerate(scenario.operations):
        try:
            found.append(_prepare(operation, np.random.default_rng([scenario.seed, number])))
        except GradwireError as error:
            error.add_note(f"in [[mix]] {operation.name} of {scenario.name}")
            raise
    return found


def _prepare(operation: Operation, draw: np.random.Generator) -> Prepared:
    function, sample, wrt = _source(operation)
    variants = [
        {name: np.asarray(array, operation.dtype) for name, array in sample(draw).items()} for _ in range(operation.variants)
    ]
    names = list(variants[0])
    program = gw.trace(function, *variants[0].values())
    outputs = tuple(_output(operation, item, _argnums(operation, operation.wrt or wrt, names)) for item in operation.want)
    seeds = tuple(
        tuple(_seeds(item, output, program, draw) for item, output in zip(operation.want, outputs, strict=True)) for _ in variants
    )
    inputs = tuple((*variant.values(), *program.captured) for variant in variants)
    requests = tuple(_encode(program, outputs, *item) for item in zip(inputs, seeds, strict=True))
    return Prepared(operation, program, outputs, inputs, seeds, requests)


def _source(operation: Operation) -> tuple[Callable[..., Any], Callable[[np.random.Generator], dict[str, Array]], Sequence[str]]:
    """Return the function of an operation, what draws its inputs, and its arguments that derivatives are taken in."""
    if operation.program:
        named = find_named(operation.program, operation.name)
        for name in operation.sizes:
            if name not in named.sizes:
                text = f"{operation.name}.sizes: needed sizes among {', '.join(named.sizes)}, got {name}; correct it"
                raise ArgumentError(text, given=name)
        sizes = {**named.sizes, **operation.sizes}
        return named.function, lambda draw: named.sample(draw, **sizes), named.wrt
    function = gw.from_expression(operation.expression)
    if set(function.names) != set(operation.inputs):
        given = ", ".join(operation.inputs) or "none"
        text = f"{operation.name}.inputs: needed shapes of {', '.join(function.names)}, got {given}; give each"
        raise ArgumentError(text, given=given)
    shapes = {name: operation.inputs[name] for name in function.names}
    return function, lambda draw: {name: _draw(item, draw) for name, item in shapes.items()}, function.names[:1]


def _draw(item: Input, draw: np.random.Generator) -> Array:
    if item.low is None or item.high is None:
        return np.asarray(draw.standard_normal(item.shape))
    return np.asarray(draw.uniform(item.low, item.high, item.shape))


def _argnums(operation: Operation, wrt: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    for name in wrt:
        if name not in names:
            text = f"{operation.name}.wrt: needed arguments among {', '.join(names)}, got {name!r}; choose those"
            raise ArgumentError(text, given=name)
    return tuple(names.index(name) for name in wrt)


def _output(operation: Operation, want: str, argnums: tuple[int, ...]) -> Output:
    if want == "value":
        return Output()
    layout = operation.layout if want in {"jacobian", "hessian"} else "dense"
    return Output((Transform(want, argnums),), layout)


def _seeds(want: str, output: Output, program: Program, draw: np.random.Generator) -> tuple[Array, ...]:
    """Return the tangents of the arguments, or a cotangent for each result."""
    if want not in _SEEDED:
        return ()
    (transform,) = output.transforms
    types = program.output_types if want == "vjp" else [program.input_types[number] for number in transform.argnums]
    return tuple(np.asarray(draw.standard_normal(item.shape), item.dtype.numpy) for item in types)


def _encode(program: Program, outputs: Sequence[Output], inputs: Sequence[Array], seeds: Sequence[Sequence[Array]]) -> Encoded:
    request = pb.EvaluateRequest(
        program=encode_program(program), inputs=map(encode_tensor, inputs), outputs=map(encode_output, outputs, seeds)
    )
    inline = Encoded.of(request)
    request.program_name = f"programs/{program.digest}"
    return Encoded.of(request, inline)


# -- checks --------------------------------------------------------------------------------------------------------------------


class Checker:
    """Compares answers with those of the embedded engine, computed once for each variant.

    Args:
        prepared: what is sent.
    """

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        self._prepared = prepared
        self._engine = ExecutableCache()
        self._expected: dict[tuple[int, int], list[list[Any]]] = {}

    def expected(self, operation: int, variant: int) -> list[list[Any]]:
        """Return what the answer should be: for each output, its results."""
        found = self._expected.get((operation, variant))
        if found is None:
            item = self._prepared[operation]
            executable = self._engine.get(item.program, item.outputs)
            found = self._expected[operation, variant] = executable.run(item.inputs[variant], item.seeds[variant])
        return found

    def compute_all(self) -> None:
        """Compute every answer beforehand, so that a run does not have to."""
        for operation, item in enumerate(self._prepared):
            for variant in range(len(item.requests)):
                self.expected(operation, variant)

    def find_problem(self, operation: int, variant: int, data: bytes) -> str | None:
        """Return what is wrong with an answer; None where nothing is.

        Args:
            operation: which operation was asked for.
            variant: which of its variants.
            data: the serialized EvaluateResponse.
        """
        name = self._prepared[operation].operation.name
        tolerance = TOLERANCE[self._prepared[operation].operation.dtype]
        expected = self.expected(operation, variant)
        response = pb.EvaluateResponse.FromString(data)
        counts = [len(item.results) for item in response.results]
        needed = [len(item) for item in expected]
        if counts != needed:
            return f"{name}: needed {needed} results, got {counts}"
        for number, (output, results) in enumerate(zip(response.results, expected, strict=True)):
            for given, wanted in zip(output.results, results, strict=True):
                distance = _distance(decode_result(given), wanted)
                if not distance <= tolerance:
                    needed_text = f"needed the embedded engine's answer within {tolerance:g}"
                    return f"{name}, output {number}: {needed_text}, got one {distance:.2g} away"
        return None


def _distance(given: Any, wanted: Any) -> float:
    """Return the largest difference of two results, relative to the largest element; inf where their kinds or shapes differ."""
    if type(given) is not type(wanted):
        return np.inf
    if isinstance(wanted, StructuredJacobian):
        return _distance(given.todense(), wanted.todense())
    if isinstance(wanted, np.ndarray):
        return _away(given, wanted) if given.shape == wanted.shape and given.dtype == wanted.dtype else np.inf
    same = given.shape == wanted.shape and np.array_equal(given.indptr, wanted.indptr)
    return _away(given.data, wanted.data) if same and np.array_equal(given.indices, wanted.indices) else np.inf


def _away(given: Array, wanted: Array) -> float:
    """Return the largest difference of two arrays, relative to the largest element; NaN where only one of them is NaN."""
    with np.errstate(all="ignore"):
        differs = (given != wanted) & ~(np.isnan(given) & np.isnan(wanted))
        if not differs.any():
            return 0.0
        finite = np.abs(wanted[np.isfinite(wanted)])
        return float(np.max(np.abs(given[differs] - wanted[differs])) / max(np.max(finite, initial=0.0), np.finfo(np.float64).tiny))
