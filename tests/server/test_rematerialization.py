"""A server computes values again before it refuses an evaluation for the memory that it would hold."""

from __future__ import annotations

import numpy as np
import pytest

import gradwire as gw
from gradwire_core.engine import Output, compile
from gradwire_core.transforms import Transform
from tests.core.test_rematerialization import rows
from tests.server.processes import serving


def test_what_would_hold_too_much_is_computed_again_or_refused():
    x = np.linspace(0.5, 1.5, 200_000)
    needed = gw.grad(rows)(x)
    peak = compile(gw.trace(rows, x), [Output((Transform("grad", (0,)),))]).plan.peak_bytes
    for share, fits in ((0.6, True), (0.1, False)):
        with (
            serving("--workers", "1", "--spare-workers", "0", "--max-peak-bytes", str(int(share * peak))) as server,
            gw.connect(server.address) as client,
        ):
            if fits:
                np.testing.assert_allclose(client.grad(rows)(x), needed, rtol=1e-9, atol=1e-20)
                with pytest.raises(gw.LimitError, match="predicted bytes at a time"):
                    client.grad(rows, reproducible=True)(x)
            else:
                with pytest.raises(gw.LimitError, match="predicted bytes at a time"):
                    client.grad(rows)(x)
