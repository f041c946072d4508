"""Rosenbrock's function and a layer by pytensor-federated, in an environment of its own.

python _peer_federated.py PORT FOLDER      serve, after writing the requests in their encoding to a folder
"""

import asyncio
import sys
from pathlib import Path

import grpclib.server
import numpy as np
from _mathematics import layer, layer_jacobian, value_and_gradient
from pytensor_federated import ArraysToArraysService
from pytensor_federated.npproto.utils import ndarray_from_numpy
from pytensor_federated.rpc import InputArrays

WEIGHTS = np.random.default_rng(0).normal(size=(100, 100)) / 10.0
IS_LAYER = np.ones(1)


def compute(x, *is_layer):
    if is_layer:
        return [layer(WEIGHTS, x), layer_jacobian(WEIGHTS, x)]
    found = value_and_gradient(x)
    return [found[:1], found[1:]]


def write_requests(folder):
    for size in (10, 1000, 100_000):
        _write(folder / str(size), np.linspace(-1.0, 1.0, size))
    _write(folder / "layer", np.linspace(-1.0, 1.0, 100), IS_LAYER)


def _write(path, *arrays):
    path.write_bytes(bytes(InputArrays(items=list(map(ndarray_from_numpy, arrays)), uuid="00000000-0000")))


async def serve(port):
    server = grpclib.server.Server([ArraysToArraysService(compute)])
    await server.start("127.0.0.1", port)
    await server.wait_closed()


if __name__ == "__main__":
    write_requests(Path(sys.argv[2]))
    asyncio.run(serve(int(sys.argv[1])))
