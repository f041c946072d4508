"""What a request may ask for. Every check runs before the memory or time it bounds is spent, and raises LimitError.

Clients learn the limits from GetCapabilities, under their field names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gradwire_core.errors import LimitError
from gradwire_proto.v1 import differentiation_service_pb2 as pb_service
from gradwire_proto.v1 import program_pb2 as pb_program
from gradwire_proto.v1 import tensor_pb2 as pb_tensor
from gradwire_server.config import ServerConfig


class Cost(Protocol):
    """The predicted cost of an evaluation, as a plan of the engine has it."""

    @property
    def flops(self) -> float:
        """Floating point operations."""

    @property
    def peak_bytes(self) -> int:
        """Bytes held at a time."""


@dataclass(frozen=True)
class Limits:
    """The bounds of a request; the settings `max_...` of ServerConfig document them."""

    message_bytes: int
    equation_count: int
    axis_count: int
    element_count: int
    input_count: int
    output_count: int
    peak_bytes: int
    flop_count: int

    @classmethod
    def from_config(cls, config: ServerConfig) -> Limits:
        """Return the limits that a configuration sets."""
        return cls(**{field.name: getattr(config, f"max_{field.name}") for field in dataclasses.fields(cls)})

    def as_dict(self) -> dict[str, int]:
        """Return the limits by name."""
        return dataclasses.asdict(self)

    def check_request(self, size: int) -> None:
        """Check the bytes of a request."""
        self._check("request", "bytes", "message_bytes", size)

    def check_response(self, size: int) -> None:
        """Check the bytes of a response."""
        self._check("response", "bytes", "message_bytes", size)

    def check_program(self, program: pb_program.Program) -> None:
        """Check the equations, axes and elements of a program, and of those nested in it."""
        count = 0
        for part in _walk_programs(program):
            count += len(part.equations)
            self._check("program", "equations", "equation_count", count)
            self._check_shapes(part.inputs)
            self._check_operands(part.outputs)
            for equation in part.equations:
                self._check_shapes(equation.results)
                self._check_operands(equation.operands)

    def check_evaluation(self, request: pb_service.EvaluateRequest) -> None:
        """Check the number of inputs and outputs, and the axes and elements of the tensors of a request."""
        self._check("inputs", "inputs", "input_count", len(request.inputs))
        self._check_shapes(request.inputs)
        self.check_outputs(request.outputs)

    def check_outputs(self, outputs: Sequence[pb_service.Output]) -> None:
        """Check the number of outputs, and the axes and elements of their seeds."""
        self._check("outputs", "outputs", "output_count", len(outputs))
        for output in outputs:
            self._check("seeds", "inputs", "input_count", len(output.seeds))
            self._check_shapes(output.seeds)

    def check_cost(self, cost: Cost) -> None:
        """Check the predicted bytes and operations of an evaluation."""
        self._check("evaluation", "predicted bytes at a time", "peak_bytes", cost.peak_bytes)
        self._check("evaluation", "predicted floating point operations", "flop_count", cost.flops)

    def _check_operands(self, operands: Iterable[pb_program.Operand]) -> None:
        self._check_shapes(operand.literal for operand in operands if operand.HasField("literal"))

    def _check_shapes(self, tensors: Iterable[pb_tensor.Tensor | pb_tensor.TensorType]) -> None:
        for tensor in tensors:
            shape = tensor.shape
            if shape:
                self._check("tensor", "axes", "axis_count", len(shape))
                self._check("tensor", "elements", "element_count", math.prod(shape))

    def _check(self, where: str, what: str, limit: str, given: float) -> None:
        allowed = getattr(self, limit)
        if given > allowed:
            shown = given if isinstance(given, int) else f"{given:.6g}"
            raise LimitError(
                f"{where}: needed at most {allowed} {what}, got {shown}; make the request smaller",
                limit=limit,
                allowed=allowed,
                given=shown,
            )


def _walk_programs(program: pb_program.Program) -> Iterator[pb_program.Program]:
    waiting = [program]
    while waiting:
        part = waiting.pop()
        yield part
        for equation in part.equations:
            if equation.params:
                waiting.extend(_nested(equation.params.values()))


def _nested(params: Iterable[pb_program.Param]) -> Iterator[pb_program.Program]:
    waiting = list(params)
    while waiting:
        param = waiting.pop()
        if param.HasField("program_value"):
            yield param.program_value
        elif param.HasField("list_value"):
            waiting.extend(param.list_value.items)
