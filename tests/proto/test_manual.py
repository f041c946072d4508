"""The examples in the .proto files are messages, and mean what the text around them says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from google.protobuf import text_format

from gradwire_proto.program import decode_program
from gradwire_proto.v1 import differentiation_service_pb2 as pb
from gradwire_proto.v1 import program_pb2

FOLDER = Path(__file__).parents[2] / "proto" / "gradwire" / "v1"


def examples(name):
    """The indented blocks of the comments of a file, as text."""
    blocks, lines = [], []
    for line in (FOLDER / f"{name}.proto").read_text().splitlines():
        if line.startswith("//     "):
            lines.append(line.removeprefix("//"))
        elif lines:
            blocks.append("\n".join(lines))
            lines = []
    return blocks


def test_the_example_of_a_program():
    (text,) = [block for block in examples("program") if "equations {" in block]
    program = decode_program(text_format.Parse(text, program_pb2.Program()))
    assert str(program).splitlines() == [
        "program(a: float64[3]) {",
        "  b: float64[3] = sin(a)",
        "  c: float64[3] = multiply(b, a)",
        "} -> (c)",
    ]


def test_the_example_of_a_request():
    (text,) = examples("differentiation_service")
    data = np.zeros(3).tobytes().decode().replace("\0", "\\0")
    request = text_format.Parse(text.replace("{ ... }", "{ }").replace('"..."', f'"{data}"'), pb.EvaluateRequest())
    assert [len(output.transforms) for output in request.outputs] == [0, 1]
    assert request.WhichOneof("program_source") == "program"
