"""An evaluation in shards, as a worker tells the front end: what each shard is asked, and how their results are joined. No gRPC.

    outline ::= JSON: arrays that are apart, shards, results; see `Outline`

Elements of more than CHUNKED_BYTES stand in segments, those of the task or of the answer, and a shard is given them or a slice of
them. Everything else of a shard is in its request. Its program has a name, under which a worker may hold it. A shard gives the same
bits wherever it is evaluated.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwire_core.cutting import Argument, Joint, Piece, Shard, Slice, Split
from gradwire_core.engine import Executable
from gradwire_core.structure.cost import predict
from gradwire_core.types import Array, Dtype, TensorType
from gradwire_proto import evaluation
from gradwire_proto.program import encode_program
from gradwire_proto.tensor import encode_head, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import tensor_pb2
from gradwire_server.frames import CHUNKED_BYTES, Prediction
from gradwire_server.requests import program_name
from gradwire_server.segments import Segment, copy_elements


@dataclass(frozen=True, slots=True)
class Apart:
    """An array of the whole whose elements are in a segment.

    Attributes:
        index: of the segment, among those of the task or of the answer.
        is_in_task: which of the two.
        type: its type.
    """

    index: int
    is_in_task: bool
    type: TensorType


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a shard besides its request.

    Attributes:
        program: the number of its program, among those of the answer.
        arguments: for each tensor of its request that is apart, what it is given, in order.
        prediction: what it is predicted to take.
    """

    program: int
    arguments: tuple[Argument, ...]
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class Outline:
    """How an evaluation is done in shards.

    Attributes:
        apart: the arrays that are apart, by their positions among inputs and seeds.
        shards: the shards.
        program_count: the number of their programs.
        results: for each output, how each of its results is made.
    """

    apart: dict[int, Apart]
    shards: tuple[Asked, ...]
    program_count: int
    results: tuple[tuple[Joint, ...], ...]

    def to_json(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(dataclasses.asdict(self), default=lambda dtype: dtype.value).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Outline:
        """Return what `to_json` wrote."""
        given = json.loads(text)
        apart = {int(key): Apart(item["index"], item["is_in_task"], _type(item["type"])) for key, item in given["apart"].items()}
        shards = (
            Asked(item["program"], tuple(map(_argument, item["arguments"])), Prediction(**item["prediction"]))
            for item in given["shards"]
        )
        results = (tuple(map(_joint, output)) for output in given["results"])
        return cls(apart, tuple(shards), given["program_count"], tuple(results))


def _type(item: Any) -> TensorType:
    return TensorType(Dtype(item["dtype"]), tuple(item["shape"]))


def _argument(item: Any) -> Argument:
    source, part = item
    return Argument(source, None if part is None else Slice(*part))


def _joint(item: Any) -> Joint:
    axis, pieces, type = item
    return Joint(axis, tuple(Piece(*piece) for piece in pieces), None if type is None else _type(type))


class Sharded:
    """An evaluation in shards, ready to be told for any inputs.

    Args:
        split: the shards.
        executables: of each.

    Attributes:
        programs: the serialized GetProgramResponse of each of their programs.
    """

    def __init__(self, split: Split, executables: Sequence[Executable]) -> None:
        self._split = split
        self._names = [program_name(shard.program.digest) for shard in split.shards]
        programs = {name: shard.program for name, shard in zip(self._names, split.shards, strict=True)}
        self._numbers = {name: number for number, name in enumerate(programs)}
        self.programs = tuple(
            pb.GetProgramResponse(name=name, program=encode_program(program)).SerializeToString()
            for name, program in programs.items()
        )
        self._predictions = [Prediction(predict(item.program).seconds, item.plan.peak_bytes) for item in executables]

    def tell(self, arrays: Sequence[Array], places: Sequence[int | None]) -> tuple[list[bytes], list[Segment]]:
        """Return the outline, the programs and the request of each shard, and the segments of the answer.

        Args:
            arrays: the inputs, then the seeds of each output.
            places: for each, the index of its segment among those of the task, None where it has none.

        Raises:
            OSError: there is not enough memory.
        """
        apart: dict[int, Apart] = {}
        segments: list[Segment] = []
        for source, (array, place) in enumerate(zip(arrays, places, strict=True)):
            if array.nbytes > CHUNKED_BYTES:
                apart[source] = Apart(len(segments) if place is None else place, place is not None, TensorType.of(array))
                if place is None:
                    segments.append(copy_elements(array))
        asked, requests = [], []
        for shard, name, prediction in zip(self._split.shards, self._names, self._predictions, strict=True):
            writing = _Writing(arrays, apart)
            requests.append(writing.write(shard, name).SerializeToString())
            asked.append(Asked(self._numbers[name], tuple(writing.arguments), prediction))
        outline = Outline(apart, tuple(asked), len(self.programs), self._split.results)
        return [outline.to_json(), *self.programs, *requests], segments


class _Writing:
    """Writes the request of a shard.

    Args:
        arrays: of the whole.
        apart: which of them are apart.

    Attributes:
        arguments: what was left out because it is apart, in order.
    """

    def __init__(self, arrays: Sequence[Array], apart: dict[int, Apart]) -> None:
        self._arrays = arrays
        self._apart = apart
        self.arguments: list[Argument] = []

    def write(self, shard: Shard, name: str) -> pb.EvaluateRequest:
        request = pb.EvaluateRequest(program_name=name, inputs=list(map(self._tensor, shard.inputs)), reproducible=True)
        for output, seeds in zip(shard.outputs, shard.seeds, strict=True):
            message = evaluation.encode_output(output)
            message.seeds.extend(map(self._tensor, seeds))
            request.outputs.append(message)
        return request

    def _tensor(self, argument: Argument) -> tensor_pb2.Tensor:
        array = take(self._arrays[argument.source], argument.part)
        if argument.source not in self._apart:
            return encode_tensor(array)
        self.arguments.append(argument)
        return encode_head(array)


def take(array: Array, part: Slice | None) -> Array:
    """Return a slice of an array, or all of it."""
    if part is None:
        return array
    axis, start, stop = part
    found: Array = np.moveaxis(np.moveaxis(array, axis, 0)[start:stop], 0, axis)
    return found
