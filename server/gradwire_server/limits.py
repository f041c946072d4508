"""What a request may ask for. Every check runs before the memory or time it bounds is spent, and raises LimitError.

Clients learn the limits from GetCapabilities, under their field names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import Message

from gradwire_core.errors import LimitError
from gradwire_core.structure.cost import Cost
from gradwire_core.types import TensorType
from gradwire_proto.program import NESTING_LIMIT
from gradwire_proto.v1 import differentiation_service_pb2 as pb_service
from gradwire_proto.v1 import program_pb2 as pb_program
from gradwire_proto.v1 import tensor_pb2 as pb_tensor
from gradwire_proto.v1 import transform_pb2 as pb_transform
from gradwire_server.config import ServerConfig
from gradwire_server.nesting import measure

_EQUATION_BYTES = 2  # the least on the wire


class Planned(Protocol):
    """What a plan of the engine tells of an evaluation."""

    @property
    def flops(self) -> float:
        """Floating point operations."""

    @property
    def peak_bytes(self) -> int:
        """Bytes held at a time."""


@dataclass(frozen=True)
class Limits:
    """The bounds of a request; the settings of ServerConfig, most of them named `max_...`, document them."""

    message_bytes: int
    equation_count: int
    nesting_count: int
    literal_bytes: int
    transform_count: int
    axis_count: int
    element_count: int
    input_count: int
    output_count: int
    peak_bytes: int
    flop_count: int
    predicted_s: int
    program_store_bytes: int
    tensor_store_bytes: int
    connection_call_count: int
    stream_request_count: int
    stream_joined_count: int
    stream_tensor_bytes: int
    chunked_bytes: int
    shards: int

    @classmethod
    def from_config(cls, config: ServerConfig) -> Limits:
        """Return the limits that a configuration sets."""
        settings: dict[str, int] = {}
        for field in dataclasses.fields(cls):
            name = f"max_{field.name}"
            settings[field.name] = getattr(config, name if hasattr(config, name) else field.name)
        limits = cls(**settings)
        return dataclasses.replace(limits, nesting_count=min(limits.nesting_count, NESTING_LIMIT))

    def as_dict(self) -> dict[str, int]:
        """Return the limits by name."""
        return dataclasses.asdict(self)

    def check_request(self, size: int) -> None:
        """Check the bytes of a request."""
        self._check("request", "bytes", "message_bytes", size)

    def check_response(self, size: int) -> None:
        """Check the bytes of a response."""
        self._check("response", "bytes", "message_bytes", size)

    def check_size(self, kind: type[Message], message: bytes) -> None:
        """Check the equations of the program in a serialized request, and how deeply it is nested, before it is parsed.

        Messages too short for too many equations are not looked at: what their parser takes is checked by `check_program`.
        """
        if len(message) > _EQUATION_BYTES * self.equation_count:
            self.check_nesting(kind, message)

    def check_nesting(self, kind: type[Message], message: bytes) -> None:
        """Check what `check_size` does of a message of any length, be it well-formed or not."""
        for count, depth in measure(kind, message):
            self._check("program", "equations", "equation_count", count, suffix=" or more")
            self._check("params", "levels of nesting", "nesting_count", depth, suffix=" or more")

    def check_program(self, program: pb_program.Program) -> None:
        """Check the equations, literals, axes and elements of a program, and of those nested in it."""
        count = literals = 0
        for part, depth in _walk_programs(program):
            self._check("params", "levels of nesting", "nesting_count", depth)
            if part is None:
                continue
            count += len(part.equations)
            self._check("program", "equations", "equation_count", count)
            self._check_shapes(part.inputs)
            literals += self._check_operands(part.outputs)
            for equation in part.equations:
                self._check_shapes(equation.results)
                literals += self._check_operands(equation.operands)
            self._check("program", "bytes of literals", "literal_bytes", literals)

    def check_evaluation(self, request: pb_service.EvaluateRequest) -> None:
        """Check the number of inputs and outputs, and the axes and elements of the tensors of a request."""
        self._check("inputs", "inputs", "input_count", len(request.inputs))
        self._check_shapes(request.inputs)
        self.check_outputs(request.outputs)

    def check_outputs(self, outputs: Sequence[pb_service.Output]) -> None:
        """Check the number of outputs, of their transforms, and the axes and elements of their seeds."""
        self._check("outputs", "outputs", "output_count", len(outputs))
        for output in outputs:
            self._check("seeds", "inputs", "input_count", len(output.seeds))
            self._check_shapes(output.seeds)
            self.check_transforms(output.transforms)

    def check_transforms(self, transforms: Sequence[pb_transform.Transform]) -> None:
        """Check the number of transforms of a chain, and the size of each batch among them."""
        self._check("output", "transforms", "transform_count", len(transforms))
        for transform in transforms:
            if transform.HasField("vmap"):
                self._check("vmap", "elements", "element_count", transform.vmap.axis_size)

    def check_derived(self, equation_count: int) -> None:
        """Check the equations of a derivative."""
        self._check("derivative", "equations", "equation_count", equation_count)

    def check_plan(self, plan: Planned) -> None:
        """Check the predicted bytes and operations of an evaluation."""
        self._check("evaluation", "predicted bytes at a time", "peak_bytes", plan.peak_bytes)
        self._check("evaluation", "predicted floating point operations", "flop_count", plan.flops)

    def check_cost(self, cost: Cost) -> None:
        """Check the predicted seconds of an evaluation."""
        self._check("evaluation", "predicted seconds", "predicted_s", cost.seconds)

    def share(self, plan: Planned, cost: Cost) -> float:
        """Return which share of what one evaluation may take it is predicted to; more than 1 is too much."""
        return max(plan.peak_bytes / self.peak_bytes, plan.flops / self.flop_count, cost.seconds / self.predicted_s)

    def check_joined(self, size: int) -> None:
        """Check the bytes of results that are joined from those of shards."""
        self._check("response", "bytes in chunks", "chunked_bytes", size)

    def check_stored(self, size: int) -> None:
        """Check the bytes of a program that is to be stored."""
        self._check("program", "bytes in the store", "program_store_bytes", size)

    def check_apart(self, count: int) -> None:
        """Check the number of tensors of a request whose elements are not in it."""
        self._check("inputs", "inputs and seeds by name or in chunks", "input_count", count)

    def check_type(self, type: TensorType) -> None:
        """Check the axes and elements of a tensor."""
        self._check_shapes([type])

    def check_stored_tensor(self, tensor: pb_tensor.Tensor, size: int) -> None:
        """Check the axes, elements and bytes of a tensor that is to be stored."""
        self._check_shapes([tensor])
        self._check("tensor", "bytes in the store", "tensor_store_bytes", size)

    def _check_operands(self, operands: Iterable[pb_program.Operand]) -> int:
        """Check the literals among operands and return their bytes."""
        literals = [operand.literal for operand in operands if operand.HasField("literal")]
        self._check_shapes(literals)
        return sum(len(literal.data) for literal in literals)

    def _check_shapes(self, tensors: Iterable[pb_tensor.Tensor | pb_tensor.TensorType | TensorType]) -> None:
        for tensor in tensors:
            shape = tensor.shape
            if shape:
                self._check("tensor", "axes", "axis_count", len(shape))
                self._check("tensor", "elements", "element_count", math.prod(shape))

    def _check(self, where: str, what: str, limit: str, given: float, suffix: str = "") -> None:
        allowed = getattr(self, limit)
        if given > allowed:
            shown = (str(given) if isinstance(given, int) else f"{given:.6g}") + suffix
            raise LimitError(
                f"{where}: needed at most {allowed} {what}, got {shown}; make the request smaller",
                limit=limit,
                allowed=allowed,
                given=shown,
            )


def _walk_programs(program: pb_program.Program) -> Iterator[tuple[pb_program.Program | None, int]]:
    """Yield a program and those nested in it, and None for each list, each with its depth: 0 for what is not in a param."""
    waiting: list[tuple[pb_program.Program | pb_program.ParamList, int]] = [(program, 0)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, pb_program.Program):
            yield part, depth
            for equation in part.equations:
                if equation.params:
                    waiting.extend(_nested(equation.params.values(), depth + 1))
        else:
            yield None, depth
            waiting.extend(_nested(part.items, depth + 1))


def _nested(params: Iterable[pb_program.Param], depth: int) -> Iterator[tuple[pb_program.Program | pb_program.ParamList, int]]:
    for param in params:
        if param.HasField("program_value"):
            yield param.program_value, depth
        elif param.HasField("list_value"):
            yield param.list_value, depth
