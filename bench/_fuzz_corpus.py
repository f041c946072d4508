"""Valid requests to begin from: every primitive by its samples, derivatives of all kinds, loops, sessions, tensors in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import Message

import gradwire as gw
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Program
from gradwire_core.testing import primitive_program
from gradwire_core.types import Array
from gradwire_proto.program import decode_program, encode_program
from gradwire_proto.tensor import encode_name, encode_tensor
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import transform_pb2 as pb_transform

CHUNK_BYTES = 64


@dataclass(frozen=True)
class Case:
    """A call: its rpc, and what is sent, one message or those of a stream.

    Attributes:
        rpc: the name of the rpc.
        messages: what is sent, in order.
        origin: what it was made from, for reports.
    """

    rpc: str
    messages: tuple[Message, ...]
    origin: str


def corpus() -> list[Case]:
    """Return valid requests of every rpc; small ones, so that thousands of them can be sent a second."""
    evaluations = list(_evaluations())
    found = [Case("Evaluate", (request,), origin) for origin, request in evaluations]
    programs = [(origin, request.program) for origin, request in evaluations]
    for origin, program in programs[::7]:
        found.append(Case("CreateProgram", (pb.CreateProgramRequest(program=program),), origin))
        chain = [_transform("vjp")]
        found.append(Case("Differentiate", (pb.DifferentiateRequest(program=program, transforms=chain),), origin))
        outputs = [pb.Output(), pb.Output(transforms=[_transform("jacobian")])]
        found.append(
            Case("Explain", (pb.ExplainRequest(program=program, outputs=outputs, format=pb.DERIVATION_FORMAT_TEXT),), origin)
        )
        name = "programs/" + decode_program(program).digest
        found.append(Case("GetProgram", (pb.GetProgramRequest(name=name),), origin))
        found.append(Case("DeleteProgram", (pb.DeleteProgramRequest(name=name),), origin))
    found += [
        Case("ListPrograms", (pb.ListProgramsRequest(page_size=3),), "list"),
        Case("ListPrograms", (pb.ListProgramsRequest(page_size=3, page_token=name),), "list"),
        Case("GetCapabilities", (pb.GetCapabilitiesRequest(),), "capabilities"),
    ]
    for array in _arrays():
        found.append(Case("CreateTensor", tuple(tensor_pieces(array)), "tensor"))
        found.append(Case("DeleteTensor", (pb.DeleteTensorRequest(name=encode_name(array).name),), "delete"))
    return found + list(_sessions(evaluations))


def tensor_pieces(array: Array) -> Iterator[pb.CreateTensorRequest]:
    """Yield the messages that store a tensor, its elements in pieces."""
    whole = encode_tensor(array)
    data = whole.data
    whole.data = data[:CHUNK_BYTES]
    yield pb.CreateTensorRequest(tensor=whole)
    for place in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
        yield pb.CreateTensorRequest(data=data[place : place + CHUNK_BYTES])


def _transform(kind: str, *argnums: int) -> pb_transform.Transform:
    transform = pb_transform.Transform()
    part = getattr(transform, kind)
    part.SetInParent()
    part.argnums.extend(argnums)
    return transform


def _batched(axes: Sequence[int | None], size: int) -> pb_transform.Transform:
    in_axes = [pb_transform.BatchAxis(axis=axis) for axis in axes]
    return pb_transform.Transform(vmap=pb_transform.Vmap(in_axes=in_axes, axis_size=size))


def _request(program: Program, arrays: Sequence[Array], *outputs: pb.Output) -> pb.EvaluateRequest:
    inputs = map(encode_tensor, arrays)
    return pb.EvaluateRequest(program=encode_program(program), inputs=inputs, outputs=outputs or [pb.Output()])


def _evaluations() -> Iterator[tuple[str, pb.EvaluateRequest]]:
    yield from _primitives()
    rng = np.random.default_rng(1)
    for name, function, shapes in _FUNCTIONS:
        arrays = [np.asarray(rng.uniform(0.3, 1.2, shape)) for shape in shapes]
        program = gw.trace(function, *arrays)
        yield name, _request(program, arrays)
        chains = [["jacobian"], ["vjp"], ["jvp"], ["jacobian", "jacobian"]]
        if program.output_types[0].shape == ():
            chains += [["grad"], ["hessian"], ["hvp"], ["grad", "jacobian"]]
        elif program.output_types[0].size == program.input_types[0].size:
            chains += [["jacobian_det"], ["jacobian_slogdet"], ["jacobian_logvolume"]]
        for chain in chains:
            for layout in (pb.LAYOUT_DENSE, pb.LAYOUT_STRUCTURED, pb.LAYOUT_SPARSE)[
                : 3 if chain[-1] in ("jacobian", "hessian") else 1
            ]:
                output = pb.Output(transforms=map(_transform, chain), layout=layout, seeds=_seeds(program, arrays, chain[0]))
                yield f"{name} {' '.join(chain)}", _request(program, arrays, pb.Output(), output)
        batch = [np.stack([array, array + 0.1, array + 0.2]) for array in arrays]
        output = pb.Output(transforms=[_transform("jacobian"), _batched([0] * len(arrays), 3)])
        request = _request(program, batch, output)
        request.reproducible = True
        yield f"{name} vmap", request


def _seeds(program: Program, arrays: Sequence[Array], kind: str) -> list[Any]:
    """Return the seeds that a transform asks for: tangents of the first input, cotangents of each output."""
    if kind in ("jvp", "hvp"):
        return [encode_tensor(np.ones_like(arrays[0]))]
    if kind == "vjp":
        return [encode_tensor(np.ones(type.shape, type.dtype.numpy)) for type in program.output_types]
    return []


def _primitives() -> Iterator[tuple[str, pb.EvaluateRequest]]:
    for name, primitive in sorted(PRIMITIVES.items()):
        for sample in primitive.samples(np.random.default_rng(0)):
            program = primitive_program(primitive, sample)
            arrays = [np.asarray(operand) for operand in sample.operands][: len(program.inputs)]
            outputs = [pb.Output()]
            if arrays and all(type.dtype.is_inexact for type in (*program.input_types, *program.output_types)):
                outputs.append(pb.Output(transforms=[_transform("vjp")], seeds=_seeds(program, arrays, "vjp")))
            yield name, _request(program, arrays, *outputs)


def _newton(x: Any) -> Any:
    return gw.fori_loop(0, 5, lambda _, y: y - (y * y - x) / (2 * y), x)


def _branching(x: Any) -> Any:
    return gw.cond(np.sum(x) > 1.0, np.sin, lambda y: y * y, x)


def _running(x: Any) -> Any:
    return gw.scan(lambda carry, item: (np.tanh(carry + item), carry * item), x[0], x)[1]


_FUNCTIONS: list[tuple[str, Callable[..., Any], list[tuple[int, ...]]]] = [
    ("rosenbrock", lambda x: np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2), [(6,)]),
    ("tanh", lambda w, x: np.tanh(w @ x), [(4, 4), (4,)]),
    ("elementwise", lambda x: np.sin(x) * x / (1.0 + x * x), [(5,)]),
    ("logistic", lambda w, x: np.sum(np.log1p(np.exp(-(x @ w)))), [(3,), (4, 3)]),
    ("determinant", lambda a, b: np.linalg.det(a @ a.T + b), [(3, 3), (3, 3)]),
    ("solve", np.linalg.solve, [(3, 3), (3,)]),
    ("indexing", lambda x: np.sum(x[::-2] * x[np.array([0, 2, 4])]), [(6,)]),
    ("concatenate", lambda x, y: np.concatenate([x * y, np.cumsum(x)]), [(3,), (3,)]),
    ("einsum", lambda a, b, c: np.einsum("ij,jk,kl->il", a, b, c), [(2, 3), (3, 2), (2, 2)]),
    ("where", lambda x: np.where(x > 0.7, np.exp(x), np.sort(x)), [(4,)]),
    ("loop", _newton, [(3,)]),
    ("branch", _branching, [(3,)]),
    ("scan", _running, [(4,)]),
    ("map", lambda x: gw.map(lambda row: np.prod(row) * row, x), [(3, 2)]),
    ("special", lambda x: gw.special.gammaln(x) + gw.special.erf(x), [(3,)]),
    ("empty", np.sin, [(0, 3)]),
    ("scalar", lambda x: np.exp(x) * x, [()]),
]


def _arrays() -> list[Array]:
    rng = np.random.default_rng(2)
    return [
        rng.normal(size=(5, 7)),
        rng.normal(size=3).astype(np.float32),
        np.arange(40),
        np.array([True, False]),
        np.array(1.5 + 2j),
        np.zeros((0, 4)),
    ]


def _sessions(evaluations: Sequence[tuple[str, pb.EvaluateRequest]]) -> Iterator[Case]:
    """Yield sessions: some requests each, small ones whole, one with its tensors in chunks, one that is cancelled; joined too."""
    for place in range(0, len(evaluations) - 3, 3):
        items = [
            pb.EvaluateStreamRequest(id=number, evaluate=request, timeout_s=5.0 if number else 0.0, request_id=f"case-{number}")
            for number, (_, request) in enumerate(evaluations[place : place + 3])
        ]
        yield Case("EvaluateStream", tuple(items), evaluations[place][0])
        yield Case("EvaluateStream", (pb.EvaluateStreamRequest(joined=items),), f"{evaluations[place][0]} joined")
    for origin, request in evaluations[::20]:
        items = list(_in_chunks(7, request))
        yield Case("EvaluateStream", tuple(items), f"{origin} in chunks")
        parts = [pb.EvaluateStreamRequest(joined=items[start : start + 2]) for start in range(0, len(items), 2)]
        yield Case("EvaluateStream", tuple(parts), f"{origin} in chunks joined")
        cancel = pb.EvaluateStreamRequest(id=7, cancel=pb.Cancel())
        yield Case("EvaluateStream", (*items[:2], cancel, pb.EvaluateStreamRequest(id=8, evaluate=request)), f"{origin} cancelled")


def _in_chunks(number: int, request: pb.EvaluateRequest) -> Iterator[pb.EvaluateStreamRequest]:
    """Yield the messages of a request whose tensors follow it in chunks."""
    message = pb.EvaluateRequest()
    message.CopyFrom(request)
    tensors = [*message.inputs, *(seed for output in message.outputs for seed in output.seeds)]
    contents = [tensor.data for tensor in tensors]
    for tensor in tensors:
        tensor.ClearField("data")
    yield pb.EvaluateStreamRequest(id=number, evaluate=message)
    for data in contents:
        for place in range(0, len(data), CHUNK_BYTES):
            yield pb.EvaluateStreamRequest(id=number, chunk=data[place : place + CHUNK_BYTES])
