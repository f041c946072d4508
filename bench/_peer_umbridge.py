"""Rosenbrock's function and a layer as models of UM-Bridge, in an environment of its own: `python _peer_umbridge.py PORT`."""

import sys

import numpy as np
import umbridge
from _mathematics import layer, layer_jacobian, rosenbrock, value_and_gradient

WEIGHTS = np.random.default_rng(0).normal(size=(100, 100)) / 10.0


class Rosenbrock(umbridge.Model):
    def __init__(self, size):
        super().__init__(f"rosenbrock{size}")
        self._size = size

    def get_input_sizes(self, _config):
        return [self._size]

    def get_output_sizes(self, _config):
        return [1]

    def __call__(self, parameters, _config):
        return [[rosenbrock(np.array(parameters[0]))]]

    def gradient(self, _out_wrt, _in_wrt, parameters, sens, _config):
        return (sens[0] * value_and_gradient(np.array(parameters[0]))[1:]).tolist()

    def supports_evaluate(self):
        return True

    def supports_gradient(self):
        return True


class Layer(umbridge.Model):
    def __init__(self):
        super().__init__("layer")

    def get_input_sizes(self, _config):
        return [100]

    def get_output_sizes(self, _config):
        return [100]

    def __call__(self, parameters, _config):
        return [layer(WEIGHTS, np.array(parameters[0])).tolist()]

    def apply_jacobian(self, _out_wrt, _in_wrt, parameters, vec, _config):
        return (layer_jacobian(WEIGHTS, np.array(parameters[0])) @ np.array(vec)).tolist()

    def supports_evaluate(self):
        return True

    def supports_apply_jacobian(self):
        return True


if __name__ == "__main__":
    umbridge.serve_models([*map(Rosenbrock, (10, 1000, 100_000)), Layer()], int(sys.argv[1]), error_checks=False)
