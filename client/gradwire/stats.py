"""Distributions under the names of `scipy.stats`: logarithms of densities and probabilities, for arrays and traced arrays alike.

SciPy's own objects cannot be traced; these are compositions of the primitives of gradwire, differentiable in every argument, and
stable where the density underflows. Arguments broadcast; outside its support a density has the logarithm -inf, and derivative 0.

Example:
    >>> import numpy as np, gradwire as gw, gradwire.stats as gst
    >>> gw.grad(lambda scale: gst.norm.logpdf(1.0, 0.0, scale))(2.0)
    array(-0.375)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwire.linalg import cholesky, solve_triangular
from gradwire_core.errors import ShapeError
from gradwire_core.ops.elementwise import (
    equal,
    exp,
    greater,
    greater_equal,
    less_equal,
    log,
    log1p,
    logical_and,
    negative,
    square,
    where,
)
from gradwire_core.ops.incomplete import betainc, gammainc, gammaincc
from gradwire_core.ops.rounding import floor
from gradwire_core.ops.special import betaln, gammaln, log_ndtr, ndtr, ndtri, xlog1py, xlogy

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class _Normal:
    """The normal distribution of mean `loc` and standard deviation `scale`."""

    def logpdf(self, x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the logarithm of the density."""
        return -0.5 * square((x - loc) / scale) - HALF_LOG_2_PI - log(scale)

    def pdf(self, x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the density."""
        return exp(self.logpdf(x, loc, scale))

    def cdf(self, x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the probability of at most x."""
        return ndtr((x - loc) / scale)

    def logcdf(self, x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the logarithm of the probability of at most x."""
        return log_ndtr((x - loc) / scale)

    def sf(self, x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the probability of more than x."""
        return ndtr((loc - x) / scale)

    def logsf(self, x: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the logarithm of the probability of more than x."""
        return log_ndtr((loc - x) / scale)

    def ppf(self, q: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the x of which the probability of at most x is q."""
        return ndtri(q) * scale + loc


class _StudentT:
    """Student's t distribution of `df` degrees of freedom."""

    def logpdf(self, x: Any, df: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the logarithm of the density."""
        tail = 0.5 * (df + 1) * log1p(square((x - loc) / scale) / df)
        return negative(betaln(0.5 * df, 0.5)) - 0.5 * log(df) - log(scale) - tail


class _Beta:
    """The beta distribution of parameters a and b, on the interval from `loc` to `loc + scale`."""

    def logpdf(self, x: Any, a: Any, b: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the logarithm of the density."""
        z = (x - loc) / scale
        is_inside = logical_and(greater_equal(z, 0.0), less_equal(z, 1.0))
        z = where(is_inside, z, 0.5)
        inside = xlogy(a - 1, z) + xlog1py(b - 1, negative(z)) - betaln(a, b) - log(scale)
        return where(is_inside, inside, -np.inf)

    def cdf(self, x: Any, a: Any, b: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the probability of at most x."""
        z = (x - loc) / scale
        is_inside = logical_and(greater(z, 0.0), less_equal(z, 1.0))
        return where(is_inside, betainc(a, b, where(is_inside, z, 0.5)), where(greater(z, 1.0), 1.0, 0.0))


class _Gamma:
    """The gamma distribution of shape a and scale `scale`, from `loc` on."""

    def logpdf(self, x: Any, a: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the logarithm of the density."""
        z = (x - loc) / scale
        is_inside = greater_equal(z, 0.0)
        z = where(is_inside, z, 1.0)
        return where(is_inside, xlogy(a - 1, z) - z - gammaln(a) - log(scale), -np.inf)

    def cdf(self, x: Any, a: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the probability of at most x."""
        z = (x - loc) / scale
        is_inside = greater(z, 0.0)
        return where(is_inside, gammainc(a, where(is_inside, z, 1.0)), 0.0)

    def sf(self, x: Any, a: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
        """Return the probability of more than x."""
        z = (x - loc) / scale
        is_inside = greater(z, 0.0)
        return where(is_inside, gammaincc(a, where(is_inside, z, 1.0)), 1.0)


class _Poisson:
    """The Poisson distribution of mean mu, from `loc` on."""

    def logpmf(self, k: Any, mu: Any, loc: Any = 0) -> Any:
        """Return the logarithm of the probability of k; it is -inf where k is no natural number."""
        count = k - loc
        is_inside = logical_and(greater_equal(count, 0), equal(count, floor(count)))
        count = where(is_inside, count, 0)
        return where(is_inside, xlogy(count, mu) - gammaln(count + 1) - mu, -np.inf)

    def cdf(self, k: Any, mu: Any, loc: Any = 0) -> Any:
        """Return the probability of at most k."""
        count = floor(k - loc)
        is_inside = greater_equal(count, 0)
        return where(is_inside, gammaincc(where(is_inside, count, 0) + 1, mu), 0.0)


class _Dirichlet:
    """The Dirichlet distribution of parameters alpha."""

    def logpdf(self, x: Any, alpha: Any) -> Any:
        """Return the logarithm of the density.

        Args:
            x: probabilities along the first axis, as many as `alpha` has elements, or one less: then the last is what is missing.
            alpha: a vector.

        Raises:
            ShapeError: their numbers do not fit.
        """
        (count,) = np.shape(alpha)
        length = np.shape(x)[0] if np.shape(x) else 0
        if length not in (count, count - 1):
            text = f"dirichlet: needed {count} or {count - 1} probabilities along the first axis, got {length}; correct x"
            raise ShapeError(text, needed=count, given=length)
        if length == count - 1:
            x = np.concatenate([x, 1 - np.sum(x, 0, keepdims=True)], 0)
        powers = np.reshape(alpha - 1, (count, *(1,) * (len(np.shape(x)) - 1)))
        return np.sum(xlogy(powers, x), 0) + gammaln(np.sum(alpha)) - np.sum(gammaln(alpha))


class _MultivariateNormal:
    """The normal distribution of vectors."""

    def logpdf(self, x: Any, mean: Any, cov: Any) -> Any:
        """Return the logarithm of the density, NaN where the covariance is not positive definite.

        Args:
            x: vectors along the last axis.
            mean: a vector, or vectors that broadcast with x.
            cov: a symmetric matrix.

        Raises:
            ShapeError: the covariance is no matrix of the size of the vectors.
        """
        deviation = x - mean
        size = np.shape(deviation)[-1] if np.shape(deviation) else 0
        if np.shape(cov) != (size, size):
            text = f"multivariate_normal: needed a covariance of shape {(size, size)}, got {np.shape(cov)}; pass the matrix"
            raise ShapeError(text, needed=(size, size), given=np.shape(cov))
        root = cholesky(cov)
        flat = np.reshape(deviation, (-1, size))
        whitened = solve_triangular(root, np.transpose(flat), lower=True)
        square_norm = np.reshape(np.sum(square(whitened), 0), np.shape(deviation)[:-1])
        return -0.5 * square_norm - size * HALF_LOG_2_PI - np.sum(log(np.diagonal(root)))


beta = _Beta()
dirichlet = _Dirichlet()
gamma = _Gamma()
multivariate_normal = _MultivariateNormal()
norm = _Normal()
poisson = _Poisson()
t = _StudentT()
