"""Formats, derivations and plans across the wire."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gradwire_core import engine
from gradwire_core.builder import Builder
from gradwire_core.errors import ArgumentError
from gradwire_core.transforms import Transform
from gradwire_core.types import Dtype, TensorType
from gradwire_proto.explanation import (
    FORMATS,
    decode_derivation,
    decode_format,
    encode_derivation,
    encode_format,
    encode_plan,
)
from gradwire_proto.v1 import differentiation_service_pb2 as pb


@pytest.mark.parametrize("name", FORMATS)
def test_formats_round_trip(name):
    assert decode_format(encode_format(name)) == name
    derivation = {"steps": [{"rule": "chain", "sizes": [1, 2**53 + 1], "cost": 0.5}]} if name == "data" else "y = x\n"
    assert decode_derivation(encode_derivation(derivation), name) == derivation


def test_every_format_of_the_wire_has_a_name():
    assert [decode_format(number) for number in pb.DerivationFormat.values()] == ["text", *FORMATS]


def test_what_is_no_format_and_no_derivation_is_refused():
    with pytest.raises(ArgumentError, match="explain: needed a format among text, latex, data, got 'html'"):
        encode_format("html")
    with pytest.raises(ArgumentError, match=r"format: needed one of DERIVATION_FORMAT_TEXT, .*, got the unknown number 9"):
        decode_format(9)
    for text in ("[1]", "{", "program(a)"):
        with pytest.raises(ArgumentError, match="derivation: needed a JSON object, got"):
            decode_derivation(text, "data")


def test_a_plan_is_told_by_its_totals():
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (5,)))
    plan = engine.compile(builder.build([np.sum(np.sin(x) * x)]), [engine.Output(), engine.Output((Transform("hessian"),))]).plan
    message = encode_plan(plan)
    assert message.step_count == len(plan.steps) > 1
    assert message.flops == plan.flops
    assert message.peak_bytes == plan.peak_bytes
    assert (message.input_bytes, message.output_bytes) == (5 * 8, 8 + 25 * 8)


def test_a_plan_tells_what_was_chosen_over_what():
    builder = Builder()
    x = builder.input(TensorType(Dtype.FLOAT64, (500,)))
    program = builder.build([(x[1:] * x[:-1]) ** 2.0])
    plan = engine.compile(program, [engine.Output((Transform("jacobian"),), "sparse")]).plan
    message = encode_plan(plan)
    assert len(message.choices) == len(plan.choices) > 0
    for told, choice in zip(message.choices, plan.choices, strict=True):
        assert (told.subject, told.chosen) == (choice.what, choice.chosen)
        assert told.chosen in [item.strategy for item in told.predictions]
        for item, (strategy, cost) in zip(told.predictions, choice.predictions, strict=True):
            assert (item.strategy, item.seconds, item.flops) == (strategy, cost.seconds, cost.flops)
            assert (item.written_bytes, item.equation_count, item.is_bound) == (cost.bytes, cost.equations, cost.is_bound)


def test_data_is_json_for_every_reader():
    assert json.loads(encode_derivation({"a": [1, "b"]})) == {"a": [1, "b"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        encode_derivation({"a": float("nan")})
