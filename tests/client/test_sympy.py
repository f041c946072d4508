"""Functions from SymPy: the values and derivatives that SymPy itself finds."""

import subprocess
import sys

import numpy as np
import pytest

import gradwire as gw

sympy = pytest.importorskip("sympy", reason="gradwire[sympy] is not installed: from_sympy is not tested")

x, y = sympy.symbols("x y", real=True)
k = sympy.Symbol("k", integer=True)
M = sympy.MatrixSymbol("M", 2, 2)
POINT = (1.3, 0.7)
RATIONAL = {x: sympy.Rational(13, 10), y: sympy.Rational(7, 10)}

SMOOTH = [
    sympy.sin(x) * y,
    x**2 / y - 3 * x / 7,
    sympy.exp(-(x**2) / 2) / sympy.sqrt(2 * sympy.pi * y),
    sympy.log(1 + x) + sympy.log(x, 2),
    x**y + sympy.cbrt(x) + x**-3,
    sympy.tan(x) + sympy.acos(y) + sympy.atan2(y, x) + sympy.sinh(y) + sympy.atanh(y),
    sympy.sec(x) + sympy.csc(x) + sympy.cot(x) + sympy.sech(x) + sympy.csch(x) + sympy.coth(x),
    sympy.acot(x) + sympy.asec(x) + sympy.acsc(x) + sympy.acoth(x) + sympy.asech(y) + sympy.acsch(y),
    sympy.erf(x) * sympy.gamma(y) + sympy.loggamma(x) + sympy.digamma(x) + sympy.polygamma(2, x) + sympy.erfc(y),
    sympy.Max(x, y, sympy.Rational(1, 3)) + sympy.Min(x, y) + sympy.Abs(x - y) ** 3,
    sympy.Piecewise((x, x < 0), (sympy.log(x), x > 1), (y, True)),
    sympy.Sum(x**k / (k + 1), (k, 0, 5)) + sympy.Product(x + k, (k, 1, 3)),
    sympy.Derivative(sympy.sin(x) * x, x),
    sympy.EulerGamma * x + sympy.GoldenRatio + sympy.E,
    -x,
    1 / x,
    x,
]


@pytest.mark.parametrize("expr", SMOOTH, ids=str)
def test_values_and_gradients_are_those_of_sympy(expr):
    f = gw.from_sympy(expr, (x, y))
    exact = expr.doit()
    value, gradient = gw.value_and_grad(f, (0, 1))(*POINT)
    np.testing.assert_allclose(value, float(exact.subs(RATIONAL).evalf(30)), rtol=1e-14)
    expected = [float(exact.diff(one).doit().subs(RATIONAL).evalf(30)) for one in (x, y)]
    np.testing.assert_allclose(gradient, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    "expr",
    [
        sympy.And(x > 0, y < 1, x >= y),
        sympy.Or(x > 2, sympy.Ne(x, y)),
        sympy.Not(sympy.Eq(x, y)),
        sympy.Xor(x > 0, y > 2),
        sympy.ITE(x > 0, y > 0, y > 1),
        sympy.true,
        sympy.Mod(x, y) + sympy.floor(10 * x) + sympy.ceiling(x),
        sympy.sinc(x) + sympy.Heaviside(x) + sympy.sign(y),
        sympy.Integer(3),
        sympy.oo * x,
        sympy.Rational(10**400, 3 * 10**400 + 1),
        sympy.re(x) + sympy.im(sympy.I * y),
    ],
    ids=str,
)
def test_values_are_those_of_sympy(expr):
    expected = expr.subs(RATIONAL)
    assert gw.evaluate(gw.from_sympy(expr, (x, y)))(*POINT) == pytest.approx(
        bool(expected) if expected in (True, False) else float(expected), rel=1e-15
    )


def test_where_no_piece_holds_the_value_is_nan_and_an_untaken_piece_has_no_derivative():
    assert np.isnan(gw.evaluate(gw.from_sympy(sympy.Piecewise((x, x > 2)), x))(1.0))
    assert gw.grad(gw.from_sympy(sympy.Piecewise((sympy.sqrt(x), x > 0), (0, True)), x))(0.0) == 0


def test_arrays_in_and_out():
    matrix = sympy.Matrix([[x, y], [x * y, 1]])
    jacobian = gw.jacobian(gw.from_sympy(matrix, [(x, y)]))(np.array(POINT))
    np.testing.assert_allclose(jacobian, [[[1, 0], [0, 1]], [[0.7, 1.3], [0, 0]]])
    assert gw.from_sympy(matrix.T, sympy.Matrix([[x], [y]]).T)(np.array([POINT])).shape == (2, 2)
    np.testing.assert_allclose(gw.evaluate(gw.from_sympy((x, [y, x]), (x, y)))(*POINT)[1], [0.7, 1.3])
    assert gw.from_sympy(sympy.Array([[[x, y]]]), (x, y))(*POINT).shape == (1, 1, 2)


def test_matrix_expressions():
    given = np.array([[2.0, 1.0], [0.5, 3.0]])
    inverse = np.linalg.inv(given)
    expr = M.T * M + 2 * M.inv() + M**2 + sympy.Trace(M) * sympy.Identity(2) * M[0, 1]
    expected = given.T @ given + 2 * inverse + given @ given + 5 * np.eye(2)
    np.testing.assert_allclose(gw.evaluate(gw.from_sympy(expr, M))(given), expected, rtol=1e-14)
    np.testing.assert_allclose(gw.grad(gw.from_sympy(sympy.Determinant(M), M))(given), 5.5 * inverse.T, rtol=1e-14)


def test_repeated_parts_are_computed_once():
    expr = x
    for _ in range(60):
        expr = sympy.sin(expr, evaluate=False) + sympy.cos(expr, evaluate=False)
    f = gw.from_sympy(expr, x)
    assert len(f.steps) < 200
    assert np.isfinite(gw.grad(f)(0.3))


@pytest.mark.parametrize(
    ("expr", "symbols", "kind", "words"),
    [
        (x + y, x, gw.ArgumentError, "needed symbols among x, got y"),
        (sympy.Function("f")(x), x, gw.UnknownPrimitiveError, "got f"),
        (sympy.fresnels(x), x, gw.UnknownPrimitiveError, "got fresnels"),
        (x, (x + 1,), gw.ArgumentError, "needed Symbols as arguments"),
        (x, (3,), gw.ArgumentError, "needed Symbols as arguments"),
        (sympy.Integral(sympy.exp(x * sympy.sin(x)), (x, 0, y)), y, gw.UnknownPrimitiveError, "got Integral"),
    ],
)
def test_what_cannot_be_had_is_refused(expr, symbols, kind, words):
    with pytest.raises(kind, match=words.replace("(", r"\(")):
        gw.from_sympy(expr, symbols)


def test_without_sympy_it_says_what_to_install():
    script = "import sys; sys.modules['sympy'] = None\nimport gradwire\ngradwire.from_sympy(1, ())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: from_sympy: needed the module sympy" in done.stderr
