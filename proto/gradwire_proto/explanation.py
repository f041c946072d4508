"""What Explain asks and answers: formats, derivations and plans, between the core and messages."""

from __future__ import annotations

import json
from typing import Any

from gradwire_core.errors import ArgumentError
from gradwire_core.planner import Plan
from gradwire_core.structure.cost import Cost
from gradwire_core.structure.strategy import Choice
from gradwire_proto.v1 import differentiation_service_pb2 as pb

_FORMATS = {
    "text": pb.DERIVATION_FORMAT_TEXT,
    "latex": pb.DERIVATION_FORMAT_LATEX,
    "data": pb.DERIVATION_FORMAT_JSON,
}
_NAMES: dict[int, str] = {pb.DERIVATION_FORMAT_UNSPECIFIED: "text", **{number: name for name, number in _FORMATS.items()}}
FORMATS = tuple(_FORMATS)
"""The names of the formats of a derivation."""


def encode_format(name: str) -> pb.DerivationFormat.ValueType:
    """Return the number of a format.

    Raises:
        ArgumentError: there is no such format.
    """
    found = _FORMATS.get(name)
    if found is None:
        raise ArgumentError(f"explain: needed a format among {', '.join(FORMATS)}, got {name!r}; choose one", given=name)
    return found


def decode_format(number: int, where: str = "format") -> str:
    """Return the format of a number.

    Raises:
        ArgumentError: this version does not know it.
    """
    found = _NAMES.get(number)
    if found is None:
        names = ", ".join(map(pb.DerivationFormat.Name, _FORMATS.values()))
        text = f"{where}: needed one of {names}, got the unknown number {number}; set one of those"
        raise ArgumentError(text, where=where, given=number)
    return found


def encode_derivation(derivation: str | dict[str, Any]) -> str:
    """Return a derivation as it travels: text and LaTeX as they are, data as JSON."""
    return derivation if isinstance(derivation, str) else json.dumps(derivation, allow_nan=False, separators=(",", ":"))


def decode_derivation(text: str, format: str) -> str | dict[str, Any]:
    """Return the derivation of a message in a format.

    Raises:
        ArgumentError: it is data, but no JSON object.
    """
    if format != "data":
        return text
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ArgumentError(f"derivation: needed a JSON object, got {text[:40]!r}; use another version", given=text[:40])
    return found


def encode_plan(plan: Plan) -> pb.Plan:
    """Return the message of a plan: its totals and the choices behind it."""
    return pb.Plan(
        step_count=len(plan.steps),
        flops=plan.flops,
        peak_bytes=plan.peak_bytes,
        constant_bytes=plan.literal_bytes,
        input_bytes=sum(type.nbytes for type in plan.program.input_types),
        output_bytes=sum(type.nbytes for type in plan.program.output_types),
        choices=map(_encode_choice, plan.choices),
    )


def _encode_choice(choice: Choice) -> pb.StrategyChoice:
    return pb.StrategyChoice(
        subject=choice.what, chosen=choice.chosen, predictions=[_encode_prediction(*item) for item in choice.predictions]
    )


def _encode_prediction(strategy: str, cost: Cost) -> pb.StrategyPrediction:
    return pb.StrategyPrediction(
        strategy=strategy,
        seconds=cost.seconds,
        flops=cost.flops,
        written_bytes=cost.bytes,
        equation_count=cost.equations,
        is_bound=cost.is_bound,
    )
