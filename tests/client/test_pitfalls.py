"""What goes wrong often is refused with advice, or works."""

import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import gradwire as gw

X = np.array([1.0, 2.0, 3.0])


def fills(x):
    filled = np.zeros(3)
    filled[0] = x[0]
    return filled.sum()


def changes_a_view(x):
    y = x * 1.0
    view = y[:2]
    view *= 10
    return y.sum()


@pytest.mark.parametrize(
    ("f", "text"),
    [
        (fills, "np.stack or np.concatenate"),
        (changes_a_view, r"\*= on a view"),
        (lambda x: math.sin(x[0]), "in place of a function of math use NumPy's"),
        (lambda x: np.array([x[0], x[1]]).sum(), "np.stack"),
        (lambda x: float(f"{x[0]:.2f}"), "a number to print"),
        (lambda x: int(x[0]), r"got int\(\)"),
        (lambda x: complex(x[0]), r"got complex\(\)"),
    ],
)
def test_what_cannot_be_traced_says_what_to_write(f, text):
    with pytest.raises(gw.TracingError, match=text):
        gw.grad(f)(X)


def test_a_sum_may_grow_by_augmented_assignment():
    def f(x):
        total = 0.0
        for index in range(3):
            total += x[index] * index
        rows = x * x
        rows *= 2
        return total + rows.copy().sum()

    np.testing.assert_array_equal(gw.grad(f)(X), [4.0, 9.0, 14.0])


@pytest.mark.parametrize("argnums", [[0], "x", True, 0.0, None])
def test_argnums_are_numbers(argnums):
    with pytest.raises(gw.ArgumentError, match="argnums"):
        gw.grad(np.sum, argnums=argnums)


def test_what_memory_cannot_hold_is_a_limit():
    with pytest.raises(gw.LimitError, match="layout='structured'"):
        gw.jacobian(np.sin)(np.ones(10**7))


def test_shapes_beyond_any_array_are_limits():
    with pytest.raises(gw.LimitError, match="elements"):
        gw.vmap(gw.trace(np.sin, X), axis_size=2**62)


def test_a_file_read_while_tracing_is_read_again(tmp_path):
    path = pathlib.Path(tmp_path) / "factor.txt"
    path.write_text("1")
    f = lambda x: (x * float(path.read_text())).sum()
    np.testing.assert_array_equal(gw.grad(f)(X), np.ones(3))
    path.write_text("5")
    np.testing.assert_array_equal(gw.grad(f)(X), np.full(3, 5.0))


def test_structured_jacobians_share_nothing_with_arguments():
    weights = np.eye(3)
    found = gw.jacobian(lambda x: weights @ x, layout="structured")(X)
    weights[0, 0] = 77
    np.testing.assert_array_equal(found.todense(), np.eye(3))
    np.testing.assert_array_equal(np.asarray(found), np.eye(3))


SCRIPT = """
import hashlib, numpy as np, gradwire as gw
x = np.random.default_rng(0).normal(size=(300, 300))
f = lambda x: np.tanh(x @ x.T).sum() + np.linalg.inv(x).sum()
answers = gw.value_and_grad(f, reproducible=True)(x)
print(hashlib.sha256(b"".join(map(np.ndarray.tobytes, answers))).hexdigest())
"""


def test_reproducible_answers_do_not_know_how_many_threads_there_are():
    digests = set()
    for count in ("1", "2"):
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": count}
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=environ, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1
