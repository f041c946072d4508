"""Rosenbrock's function and a layer as a Tesseract: what `tesseract-runtime serve` loads, in an environment of its own."""

import numpy as np
from _mathematics import layer, layer_jacobian, rosenbrock, value_and_gradient
from pydantic import BaseModel
from tesseract_core.runtime import Array, Differentiable, Float64

WEIGHTS = np.random.default_rng(0).normal(size=(100, 100)) / 10.0


class InputSchema(BaseModel):
    x: Differentiable[Array[(None,), Float64]]
    is_layer: bool = False


class OutputSchema(BaseModel):
    y: Differentiable[Array[..., Float64]]


def apply(inputs: InputSchema) -> OutputSchema:
    return OutputSchema(y=layer(WEIGHTS, inputs.x) if inputs.is_layer else np.asarray(rosenbrock(inputs.x)))


def jacobian(inputs: InputSchema, jac_inputs: set[str], jac_outputs: set[str]) -> dict[str, dict[str, np.ndarray]]:
    return {"y": {"x": layer_jacobian(WEIGHTS, inputs.x) if inputs.is_layer else value_and_gradient(inputs.x)[1:]}}
