"""Declared zeros that do not hold are an error of the call, in the same words everywhere."""

import numpy as np
import pytest

import gradwire as gw

LOWER = np.tri(5)
BROKEN = LOWER + 2 * np.eye(5, k=3)


def test_a_broken_declaration_is_refused_alike(client, awaited):
    declared = lambda x, w: gw.zeros_outside(w, LOWER != 0) @ x
    for backend in (gw, client, awaited):
        np.testing.assert_array_equal(backend.jacobian(declared)(np.ones(5), LOWER), LOWER)
        with pytest.raises(gw.ArgumentError, match=r"zeros_outside: needed 0 at \[0, 3\], where the mask is false, got 2.0;"):
            backend.jacobian(declared)(np.ones(5), BROKEN)
