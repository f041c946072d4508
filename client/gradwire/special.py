"""The names of `scipy.special`, for arrays and traced arrays alike, and a few functions of machine learning beside them.

Most of SciPy's special functions dispatch: `scipy.special.erf` of a traced array comes to the `erf` below by itself. Those that
SciPy writes in Python do not (`logsumexp`, `softmax`, `log_softmax`, `polygamma`, `multigammaln`, `softplus`, `spherical_jn`): call
them by these names.

Operands are real. Derivatives are known in every operand, to every order, but for orders and parameters of Bessel and
hypergeometric functions, of `polygamma` and of `zeta`: these may be integers or floating numbers, and NotDifferentiableError is
raised where a derivative in one is needed.

Example:
    >>> import numpy as np, gradwire as gw, gradwire.special as gsp
    >>> gw.grad(lambda a: gsp.gammainc(a, 2.0))(1.5).round(12)
    np.float64(-0.277433564209)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire.numpy import logsumexp as _logsumexp
from gradwire.numpy import softmax as _softmax
from gradwire_core.builder import Value
from gradwire_core.errors import ArgumentError
from gradwire_core.ops import bessel, elementwise, incomplete, rounding, special, transcendental

Axis = int | tuple[int, ...] | None

# -- one primitive each ------------------------------------------------------------------------------------------------------

expm1, log1p, expit = elementwise.expm1, elementwise.log1p, elementwise.logistic
cbrt, exp2 = transcendental.cbrt, transcendental.exp2
erf, erfc, erfcinv, erfcx, erfinv = special.erf, special.erfc, special.erfcinv, special.erfcx, special.erfinv
log_ndtr, ndtr, ndtri, ndtri_exp, owens_t = special.log_ndtr, special.ndtr, special.ndtri, special.ndtri_exp, special.owens_t
entr, kl_div, rel_entr, xlog1py, xlogy = special.entr, special.kl_div, special.rel_entr, special.xlog1py, special.xlogy
exp10, log_expit, logit = special.exp10, special.log_expit, special.logit
beta, betaln, digamma, gamma, gammaln = special.beta, special.betaln, special.digamma, special.gamma, special.gammaln
loggamma, polygamma, psi = special.loggamma, special.polygamma, special.digamma
betainc, betaincc, betaincinv = incomplete.betainc, incomplete.betaincc, incomplete.betaincinv
gammainc, gammaincc = incomplete.gammainc, incomplete.gammaincc
gammaincinv, gammainccinv = incomplete.gammaincinv, incomplete.gammainccinv
i0, i0e, i1, i1e, iv, ive = bessel.i0, bessel.i0e, bessel.i1, bessel.i1e, bessel.iv, bessel.ive
j0, j1, jn, jv, y0, y1, yn, yv = bessel.j0, bessel.j1, bessel.jv, bessel.jv, bessel.y0, bessel.y1, bessel.yv, bessel.yv
k0, k0e, k1, k1e, kn, kv, kve = bessel.k0, bessel.k0e, bessel.k1, bessel.k1e, bessel.kv, bessel.kv, bessel.kve
hyp1f1, hyp2f1, sinc = bessel.hyp1f1, bessel.hyp2f1, bessel.sinc


def zeta(x: Any, q: Any = None) -> Any:
    """Return the Hurwitz zeta function, the sum of `(k + q)^-x` over k >= 0; Riemann's without q."""
    return special.zeta(x, 1.0 if q is None else q)


def spherical_jn(n: Any, z: Any, derivative: bool = False) -> Any:
    """Return the spherical Bessel function of the first kind, of integer order, or its derivative."""
    if not derivative:
        return bessel.spherical_jn(n, z)
    below, above = bessel.spherical_jn(np.maximum(n - 1, 0), z), bessel.spherical_jn(n + 1, z)
    return (n * below - (n + 1) * above) / (2 * n + 1)


# -- compositions ------------------------------------------------------------------------------------------------------------


def multigammaln(a: Any, d: int) -> Any:
    """Return the logarithm of the multivariate gamma function, of static dimension d."""
    if int(d) != d or d < 1:
        raise ArgumentError(f"multigammaln: needed a positive integer d, got {d}; pass the dimension", given=d)
    total = d * (d - 1) / 4 * math.log(math.pi)
    for i in range(int(d)):
        total = total + gammaln(a - i / 2)
    return total


def softplus(x: Any) -> Any:
    """Return `ln(1 + e^x)` without overflow."""
    return np.logaddexp(x, 0.0) if isinstance(x, Value) else transcendental.logaddexp(x, 0.0)


def relu(x: Any) -> Any:
    """Return x where it is positive, else 0; the derivative at 0 is 0."""
    return elementwise.where(elementwise.greater(x, 0), x, 0.0)


def log1mexp(x: Any) -> Any:
    """Return `ln(1 - e^-x)` for positive x, accurate for small and large ones."""
    is_small = elementwise.less(x, math.log(2))
    small, large = elementwise.where(is_small, x, 1.0), elementwise.where(is_small, 1.0, x)
    return elementwise.where(
        is_small,
        elementwise.log(elementwise.negative(elementwise.expm1(elementwise.negative(small)))),
        elementwise.log1p(elementwise.negative(elementwise.exp(elementwise.negative(large)))),
    )


def stop_gradient(x: Any) -> Any:
    """Return x, of which derivatives are taken as 0."""
    return rounding.stop_gradient(x)


def logsumexp(a: Any, axis: Axis = None, b: Any = None, keepdims: bool = False, return_sign: bool = False) -> Any:
    """Return `ln |sum_i b_i exp(a_i)|` without overflow; where all a_i are -inf it is -inf, and its derivative 0.

    Args:
        a: exponents.
        axis: what to sum over, by default all.
        b: factors, by default 1; where one is 0 its exponent does not count, even if it is inf.
        keepdims: whether summed axes stay, of length 1.
        return_sign: whether the sign of the sum is returned too; otherwise a negative sum gives NaN.

    Example:
        >>> import numpy as np, gradwire.special as gsp
        >>> gsp.logsumexp(np.array([1000.0, 1000.0])) == 1000 + np.log(2)
        np.True_
    """
    if b is None and not return_sign:
        return _logsumexp(a, axis, keepdims)
    factors = 1.0 if b is None else b
    counted = elementwise.where(elementwise.equal(factors, 0), -np.inf, a)
    peak = np.max(rounding.stop_gradient(counted), axis, keepdims=True)
    peak = elementwise.where(elementwise.isfinite(peak), peak, 0.0)
    total = np.sum(elementwise.exp(counted - peak) * factors, axis, keepdims=True)
    is_zero = elementwise.equal(total, 0)
    size = elementwise.where(is_zero, 1.0, elementwise.absolute(total) if return_sign else total)
    result = elementwise.where(is_zero, -np.inf, elementwise.log(size) + peak)
    sign = elementwise.sign(total)
    if not keepdims:
        result, sign = [np.squeeze(item, axis) if axis is not None else np.reshape(item, ()) for item in (result, sign)]
    return (result, sign) if return_sign else result


def softmax(x: Any, axis: Axis = None) -> Any:
    """Return `exp(x_i) / sum_j exp(x_j)` without overflow, by default over all elements."""
    return _softmax(x, axis)


def log_softmax(x: Any, axis: Axis = None) -> Any:
    """Return the logarithm of softmax, accurate where that is tiny."""
    peak = np.max(rounding.stop_gradient(x), axis, keepdims=True)
    shifted = x - elementwise.where(elementwise.isfinite(peak), peak, 0.0)
    return shifted - elementwise.log(np.sum(elementwise.exp(shifted), axis, keepdims=True))


def huber(delta: Any, r: Any) -> Any:
    """Return `r^2 / 2` where |r| <= delta, else `delta (|r| - delta / 2)`."""
    size = elementwise.absolute(r)
    return elementwise.where(elementwise.less_equal(size, delta), 0.5 * elementwise.square(r), delta * (size - 0.5 * delta))


def boxcox(x: Any, lmbda: Any) -> Any:
    """Return `(x^lmbda - 1) / lmbda`, its limit ln x where lmbda is 0."""
    is_zero = elementwise.equal(lmbda, 0)
    power = elementwise.where(is_zero, 1.0, lmbda)
    return elementwise.where(is_zero, elementwise.log(x), elementwise.expm1(power * elementwise.log(x)) / power)
