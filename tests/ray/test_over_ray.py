"""A server whose workers are actors of a cluster."""

from __future__ import annotations

import numpy as np
import pytest

import gradwire as gw
from tests.ray.filters import RAY_WARNINGS
from tests.server.processes import run, serving

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]


def test_a_cluster_that_is_not_there_is_said_so(free_port):
    code, out, err = run("--listen", "127.0.0.1:0", "--pool", "ray", "--ray-address", f"127.0.0.1:{free_port}")
    assert (code, out) == (2, "")
    assert f"ray_address: needed a Ray cluster that this machine is a node of, got none at 127.0.0.1:{free_port}" in err


def test_what_is_larger_than_a_worker_is_served_and_the_server_drains(nodes):
    def f(x, w):
        return np.tanh(w @ np.sin(w @ x))

    rng = np.random.default_rng(1)
    x, w = rng.normal(size=500), rng.normal(size=(500, 500)) / 500
    settings = ("--ray-address", nodes.address, "--workers", "2", "--spare-workers", "0", "--worker-start-timeout-s", "120")
    with serving("--pool", "ray", "--max-peak-bytes", "6000000", "--max-shards", "8", *settings) as server:
        assert not server.worker_pids
        with gw.connect(server.address) as client:
            np.testing.assert_allclose(client.jacobian(f)(x, w), gw.jacobian(f)(x, w), rtol=1e-10, atol=1e-13)
            np.testing.assert_allclose(client.grad(lambda x: np.sum(x * x))(x), 2 * x, rtol=1e-15)
        assert server.stop() == 0
