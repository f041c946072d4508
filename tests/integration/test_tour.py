"""The tour agrees with its closed forms on every backend, and with mpmath; the demo runs and shuts down cleanly."""

import subprocess
import sys

import mpmath
import numpy as np
import pytest

import gradwire as gw
from gradwire._tour import CHECKS, TOLERANCE, TOUR
from gradwire.demo import main


@pytest.mark.parametrize("number", range(len(CHECKS)))
def test_every_result_agrees_with_its_closed_form(backend, number):
    check = CHECKS[number]
    assert check.error(check.finish(check.ask(backend))) <= TOLERANCE


@pytest.mark.parametrize(
    ("function", "precise"),
    [
        (lambda x: np.log(np.sin(x)), lambda x: mpmath.log(mpmath.sin(x))),
        (lambda x: np.log(x) * np.sin(x), lambda x: mpmath.log(x) * mpmath.sin(x)),
        (lambda x: np.sin(x) + x**3 + np.exp(x), lambda x: mpmath.sin(x) + x**3 + mpmath.exp(x)),
        (lambda x: x**2 * np.exp(np.sin(x)), lambda x: x**2 * mpmath.exp(mpmath.sin(x))),
    ],
)
def test_scalar_derivatives_agree_with_mpmath_at_fifty_digits(backend, function, precise):
    with mpmath.workdps(50):
        for x in (0.3, 1.2, 2.9):
            for order, derivative in ((1, backend.grad(function)), (2, backend.hessian(function))):
                expected = float(mpmath.diff(precise, mpmath.mpf(x), order))
                assert derivative(x) == pytest.approx(expected, rel=TOLERANCE)


def test_a_jacobian_determinant_agrees_with_complex_steps(backend):
    f = lambda p: np.stack([p[0] * np.sin(p[1]) * np.cos(p[2]), p[0] * np.sin(p[1]) * np.sin(p[2]), p[0] * np.cos(p[1])])
    at = np.array([1.5, 0.9, 2.2])
    step = 1e-200
    columns = [f(at + 1j * step * np.eye(3)[k]).imag / step for k in range(3)]
    assert backend.jacobian_det(f)(at) == pytest.approx(np.linalg.det(np.stack(columns, 1)), rel=TOLERANCE)


def test_every_stop_names_its_rule():
    assert len(TOUR) >= 12
    assert all(stop.title and stop.rule and stop.checks for stop in TOUR)


def test_the_demo_prints_every_result_beside_its_closed_form():
    done = subprocess.run([sys.executable, "-m", "gradwire.demo"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("error ") == len(CHECKS) + 1
    assert all(stop.title in done.stdout for stop in TOUR)
    assert done.stdout.rstrip().endswith("The server stopped with exit code 0.")
    assert max(map(len, done.stdout.splitlines())) <= 132


def test_a_disagreement_fails_the_demo(monkeypatch, capsys):
    monkeypatch.setattr(gw.Client, "_perform", lambda self, task: task.rebuild([[np.float64("nan")] * 2 for _ in task.outputs]))
    monkeypatch.setattr("gradwire.demo.TOUR", TOUR[:1])
    assert main() == 1
    assert "nan" in capsys.readouterr().out
