"""A server whose workers compile what runs long: the answers stay, and the code is found in its folder."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import gradwire as gw
from tests.server.processes import serving

PATIENCE_S = 120.0


def wave(x):
    return (x * x + 3.0 * x) / (2.0 + x * x)


@pytest.mark.parametrize("is_native", [True, False])
def test_workers_keep_compiled_code_in_a_folder(tmp_path, is_native):
    folder = tmp_path / "code"
    options = ("--workers", "1", "--spare-workers", "0", "--cache-folder", str(folder), "--native" if is_native else "--no-native")
    x = np.linspace(-1.0, 1.0, 2**19)
    needed = gw.evaluate(wave)(x)
    with serving(*options) as server, gw.connect(server.address) as client:
        deadline = time.monotonic() + (PATIENCE_S if is_native else 2.0)
        while time.monotonic() < deadline and not list(folder.rglob("*.nbi")):
            np.testing.assert_allclose(client.evaluate(wave)(x), needed, rtol=1e-13, atol=1e-13)
        assert bool(list(folder.rglob("*.nbi"))) == is_native
        for _ in range(5):
            np.testing.assert_allclose(client.evaluate(wave)(x), needed, rtol=1e-13, atol=1e-13)
