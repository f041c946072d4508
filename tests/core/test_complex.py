"""Complex numbers: derivatives are those of JAX, exact parts and kinks, and refusals that say what to do."""

from __future__ import annotations

import numpy as np
import pytest

from gradwire_core.errors import DtypeError, NotDifferentiableError
from gradwire_core.ops import PRIMITIVES
from gradwire_core.ops._declare import call
from gradwire_core.program import Sample
from gradwire_core.testing import check_derivatives, interpret, primitive_program
from gradwire_core.transforms import grad, hessian, jacobian, jvp, vjp
from tests.core.traces import trace

Z = np.array([0.6 + 0.8j, -1.2 + 0.5j])
X = np.array([0.4, 1.3])
C = np.array([0.5 - 1.0j, 0.25 + 2.0j])
T = np.array([1.0 + 0.5j, -0.3 + 0.7j])

# Computed with JAX 0.10.2 in float64: the tangent along T, and the cotangent for C (or the gradient, weighted by 1 and 2), at Z.
# Not here are arccosh, whose tangent has the wrong sign there where Re z < 0, and sign, which is taken for constant there.
HOLOMORPHIC_OR_NOT = {
    "exp": (
        [(0.6159283835583443 + 1.9418492165325012j), (-0.18037697452427182 + 0.14170589250038074j)],
        [(1.9418492165325012 - 0.6159283835583443j), (-0.22271969751183635 + 0.5647456255505434j)],
    ),
    "log": ([(1 - 0.5j), (0.4201183431952663 - 0.40828402366863903j)], [(-0.5 - 1j), (0.4142011834319527 - 1.4940828402366864j)]),
    "sin": (
        [(1.354563873019875 + 0.05045398848575411j), (-0.462558038356476 + 0.14031845117898165j)],
        [(0.05045398848575411 - 1.354563873019875j), (-0.8692113813079656 + 0.9386283233421028j)],
    ),
    "cos": (
        [(-0.388679827629631 - 1.1105717849570478j), (-0.18312139484022455 + 0.7923409091768217j)],
        [(-1.1105717849570478 + 0.388679827629631j), (0.6403937180150676 + 2.05477721665597j)],
    ),
    "tan": (
        [(0.1913561841555096 + 0.7361490685012094j), (1.8394456749538215 + 0.43640151851935566j)],
        [(0.7361490685012094 - 0.1913561841555096j), (4.785304648562611 - 1.4609282518121818j)],
    ),
    "sinh": (
        [(0.5975679087735692 + 0.8696681105705852j), (0.02987210088242038 + 1.329402123027727j)],
        [(0.8696681105705852 - 0.5975679087735692j), (1.84459858450982 + 2.9970809221170045j)],
    ),
    "cosh": (
        [(0.018360474784774983 + 1.072181105961916j), (-0.2102490754066923 - 1.1876962305273464j)],
        [(1.072181105961916 - 0.018360474784774983j), (-2.0673182820216565 - 2.432335296566461j)],
    ),
    "tanh": (
        [(1.072313009984071 - 0.6524184199272698j), (-0.2378118712930516 + 0.07648927911490386j)],
        [(-0.6524184199272698 - 1.0723130099840708j), (-0.4410716174986947 + 0.49250430186096983j)],
    ),
    "sqrt": (
        [(0.5590169943749475 - 5.551115123125783e-17j), (0.27520836646151253 + 0.1892057519422899j)],
        [(-5.551115123125783e-17 - 0.5590169943749475j), (0.8815267988220324 + 0.064501960889417j)],
    ),
    "square": (
        [(0.3999999999999999 + 2.2j), (0.01999999999999999 - 1.9799999999999998j)],
        [(2.2 - 0.3999999999999999j), (-2.6 - 4.55j)],
    ),
    "reciprocal": (
        [(-0.1999999999999999 + 1.1j), (0.4191029725849935 - 0.16561044781345188j)],
        [(1.1 + 0.1999999999999999j), (0.7361436924477435 - 0.9383424950106789j)],
    ),
    "power": (
        [(0.3516133959576282 + 1.0548401878728852j), (-0.2745829020354888 - 0.21329391306415613j)],
        [(1.0548401878728852 - 0.3516133959576282j), (-0.9122847031409373 - 0.12036669953879842j)],
    ),
    "arcsin": (
        [(0.625 + 0.625j), (0.3061316806757644 + 0.6194108984453538j)],
        [(0.625 - 0.625j), (1.5270136606733398 + 1.0059782550282352j)],
    ),
    "arccos": (
        [(-0.625 - 0.625j), (-0.3061316806757644 - 0.6194108984453538j)],
        [(-0.625 + 0.625j), (-1.5270136606733398 - 1.0059782550282352j)],
    ),
    "arctan": (
        [(0.8333333333333334 - 0.4166666666666667j), (-0.2400538798287391 + 0.18809833068744888j)],
        [(-0.4166666666666667 - 0.8333333333333334j), (-0.2970606629143214 + 0.75046904315197j)],
    ),
    "arcsinh": (
        [(1.0206207261596576 + 0j), (-0.2937735076413427 + 0.38204128222548217j)],
        [-1.0206207261596576j, (-0.1606343170690179 + 1.2653089092600076j)],
    ),
    "arctanh": (
        [(0.3125 + 0.625j), (0.6076824063410337 + 0.153783618996003j)],
        [(0.625 - 0.3125j), (1.5937267122823655 - 0.46067339611137453j)],
    ),
    "log1p": ([(0.625 + 0j), (1.4137931034482758 + 0.03448275862068978j)], [-0.625j, (3.2758620689655173 - 1.8103448275862066j)]),
    "expm1": (
        [(0.6159283835583443 + 1.9418492165325012j), (-0.18037697452427182 + 0.1417058925003807j)],
        [(1.9418492165325012 - 0.6159283835583443j), (-0.22271969751183643 + 0.5647456255505433j)],
    ),
    "conj": ([(1 - 0.5j), (-0.3 - 0.7j)], [(0.5 + 1j), (0.25 - 2j)]),
    "times_conj": ([(2 + 0j), (1.42 + 0j)], [(0.6000000000000001 - 0.8j), (-0.6000000000000001 - 0.25j)]),
    "einsum": ([(-2.2800000000000002 + 2.46j), (3.386 - 1.777j)], [(5.1575 + 4.36j), (2.0800000000000005 - 4.8100000000000005j)]),
    "mixed": ([(1.7 + 1.1j), (1.42 - 0.99j)], [(1.4000000000000001 - 1.1j), (-1.6 - 2.65j)]),
}
TO_REAL = {
    "abs": ([1.0, 0.5461538461538462], [(0.6 - 0.8j), (-1.8461538461538463 - 0.7692307692307694j)]),
    "angle": ([-0.5, -0.408284023668639], [(-0.8 - 0.6j), (-0.591715976331361 + 1.4201183431952662j)]),
    "real": ([1.0, -0.3], [(1 + 0j), (2 + 0j)]),
    "imag": ([0.5, 0.7], [-1j, -2j]),
    "abs2": ([2.0, 1.42], [(1.2 - 1.6j), (-4.8 - 2j)]),
    "log_abs": ([1.0, 0.42011834319526636], [(0.6 - 0.8j), (-1.4201183431952666 - 0.5917159763313612j)]),
    "real_exp": (
        [3.846072806722015, 0.30908861733371107],
        [(3.076858245377612 - 1.538429122688806j), (0.03867108202389108 - 0.8996836561065564j)],
    ),
}
GRADIENTS = {
    "re_in": [0.9855875779405474, 0.7572007134085365],
    "x_times_c": [-0.75, -3.9375],
    "cabs_zero": [0j, 0j],
    "vdot": [(2.76875+1.9625000000000006j), (22.240625+3.1j)],
    "norm": [(0.36582645650981543-0.48776860867975397j), (-0.7316529130196309-0.3048553804248462j)],

}  # fmt: skip
FUNCTIONS = {
    "conj": np.conj,
    "einsum": lambda z: np.einsum("i,j->ij", z, z * z)[0],
    "mixed": lambda z: z.real * z + z.imag,
    "power": lambda z: z ** (1.5 + 0.5j),
    "reciprocal": lambda z: 1 / z,
    "times_conj": lambda z: z * np.conj(z),
    "abs2": lambda z: np.real(z * np.conj(z)),
    "log_abs": lambda z: np.log(np.abs(z)),
    "real_exp": lambda z: np.real(np.exp(z) * np.conj(z)),
}
SCALARS = {
    "re_in": (lambda x: np.sum(np.abs(np.exp(1j * x) * x + (0.3 + 0.1j))), X),
    "x_times_c": (lambda x: np.real(np.sum(x * C * C)), X),
    "cabs_zero": (lambda z: np.sum(np.abs(z)), np.zeros(2, complex)),
    "vdot": (lambda z: np.real(np.vdot(z, C) * np.vdot(C, z * z)), Z),
    "norm": (lambda z: np.sqrt(np.sum(np.square(np.abs(z)))), Z),
}


def function(name):
    return FUNCTIONS.get(name) or getattr(np, name)


def close(given, needed):
    np.testing.assert_allclose(given, needed, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", HOLOMORPHIC_OR_NOT)
def test_tangents_and_cotangents_are_those_of_jax(name):
    tangent, cotangent = HOLOMORPHIC_OR_NOT[name]
    program, _ = trace(function(name), [Z])
    close(interpret(jvp(program), [Z, T])[0], tangent)
    close(interpret(vjp(program), [Z, C])[0], cotangent)


@pytest.mark.parametrize("name", TO_REAL)
def test_gradients_of_real_parts_are_those_of_jax(name):
    tangent, gradient = TO_REAL[name]
    program, _ = trace(function(name), [Z])
    close(interpret(jvp(program), [Z, T])[0], tangent)
    weighted, _ = trace(lambda z: np.sum(function(name)(z) * np.array([1.0, 2.0])), [Z])
    weights = np.array([1.0, 2.0])
    close(interpret(grad(weighted), [Z, weights] if len(weighted.inputs) > 1 else [Z])[0], gradient)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_through_real_and_complex_are_those_of_jax(name):
    scalar, point = SCALARS[name]
    program, captured = trace(scalar, [point])
    close(interpret(grad(program), [point, *captured])[0], GRADIENTS[name])


@pytest.mark.parametrize(
    "name", ["exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sqrt", "arcsin", "arctan", "arcsinh", "arctanh", "arccosh"]
)
def test_holomorphic_functions_have_the_derivative_of_the_complex_difference(name):
    program, _ = trace(function(name), [Z])
    step = 1e-6
    needed = (function(name)(Z + step * T) - function(name)(Z - step * T)) / (2 * step)
    np.testing.assert_allclose(interpret(jvp(program), [Z, T])[0], needed, rtol=1e-8)


def test_the_direction_of_a_complex_number_has_its_true_derivative():
    program, _ = trace(np.sign, [Z])
    step = 1e-6
    needed = (np.sign(Z + step * T) - np.sign(Z - step * T)) / (2 * step)
    np.testing.assert_allclose(interpret(jvp(program), [Z, T])[0], needed, rtol=1e-8)


@pytest.mark.parametrize("name", sorted({*HOLOMORPHIC_OR_NOT, *TO_REAL} - {"angle"}))
def test_derivatives_of_first_and_second_order_as_functions_of_two_real_numbers(name):
    def both(x, y):
        result = function(name)(x + 1j * y)
        return result.real, result.imag

    check_derivatives(both, [Z.real, Z.imag], rtol=1e-8)


@pytest.mark.parametrize("name", ["tanh", "tan", "arctan"])
def test_tangents_keep_their_digits_far_out(name):
    points = np.array([18 + 0.3j, -18 + 0.3j, 350 + 1j, -350 - 1j]) * {"tanh": 1, "tan": 1j, "arctan": 1e3}[name]
    program, _ = trace(function(name), [points])
    (given,) = interpret(jvp(program), [points, np.ones(4, complex)])
    import mpmath

    exact = {"tanh": lambda z: mpmath.sech(z) ** 2, "tan": lambda z: mpmath.sec(z) ** 2, "arctan": lambda z: 1 / (1 + z * z)}[name]
    with mpmath.workdps(50):
        for point, number in zip(points, given, strict=True):
            needed = exact(mpmath.mpc(point))
            assert abs(mpmath.mpc(complex(number)) - needed) <= 1e-13 * abs(needed)


@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
@pytest.mark.parametrize("name", ["real", "imag", "conj"])
def test_parts_of_infinite_numbers_are_exact(name, dtype):
    z = np.array([complex(np.inf, 1), complex(-0.0, np.nan), complex(2, -np.inf)], dtype)
    (given,) = interpret(primitive_program(PRIMITIVES[name], Sample((z,))), [z])
    np.testing.assert_array_equal(given, getattr(np, name)(z))
    assert given.dtype == getattr(np, name)(z).dtype


def test_a_complex_number_is_made_of_its_parts_exactly():
    x, y = np.array([1.0, np.inf, -0.0]), np.array([np.inf, -0.0, np.nan])
    (given,) = interpret(primitive_program(PRIMITIVES["complex"], Sample((x, y))), [x, y])
    np.testing.assert_array_equal(given.real, x)
    np.testing.assert_array_equal(given.imag, y)
    np.testing.assert_array_equal(np.signbit(given.real), np.signbit(x))


def test_parts_of_real_arrays_are_free():
    program, _ = trace(lambda x: np.real(x) + np.imag(x) + np.conj(x) + x.real + np.angle(x + 0j), [X])
    close(interpret(program, [X])[0], 2 * X + X)
    assert np.iscomplexobj(call(PRIMITIVES["complex"], X, X))


def test_complex64_stays_complex64():
    z = Z.astype(np.complex64)
    program, _ = trace(lambda z: np.sum(np.abs(np.exp(z) * 2j)), [z])
    (given,) = interpret(grad(program), [z])
    assert given.dtype == np.complex64


def test_the_gradient_of_a_complex_output_is_refused():
    program, _ = trace(np.sum, [Z])
    with pytest.raises(NotDifferentiableError, match=r"needed a real output, got complex128.*real part"):
        grad(program)


def test_the_jacobian_of_a_function_that_is_not_holomorphic_is_refused():
    program, _ = trace(np.conj, [Z])
    with pytest.raises(NotDifferentiableError, match="holomorphic"):
        jacobian(program)
    with pytest.raises(NotDifferentiableError, match="holomorphic"):
        hessian(trace(lambda z: np.sum(np.abs(z)), [Z])[0])


def test_the_jacobian_of_a_holomorphic_function_is_complex():
    program, _ = trace(lambda z: np.exp(z) * z[::-1], [Z])
    (given,) = interpret(jacobian(program), [Z])
    close(given @ T, interpret(jvp(program), [Z, T])[0])
    close(C @ given, interpret(vjp(program), [Z, C])[0])


def test_the_jacobian_between_real_and_complex_is_stacked():
    program, _ = trace(lambda x: np.exp(1j * x) * x[::-1], [X])
    (given,) = interpret(jacobian(program), [X])
    close(given @ X, interpret(jvp(program), [X, X])[0])
    program, _ = trace(lambda z: np.abs(z * z[::-1]) + z.real, [Z])
    (given,) = interpret(jacobian(program), [Z])
    close(X @ given, interpret(vjp(program), [Z, X])[0])


@pytest.mark.parametrize("operation", [np.floor, np.cbrt, np.arctan2])
def test_real_functions_refuse_complex_operands(operation):
    with pytest.raises(DtypeError, match="complex128"):
        trace(lambda z: operation(z, z) if operation is np.arctan2 else operation(z), [Z])


def test_the_sign_primitive_refuses_complex_operands():
    with pytest.raises(DtypeError, match="needed real operands"):
        call(PRIMITIVES["sign"], Z)
