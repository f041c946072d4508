"""Every way to compute a Jacobian, forced and measured, beside the one that predicted cost chooses.

The chosen way should be the fastest, or within 1.5 times of it: the last column is its time by that of the fastest.
"""

from __future__ import annotations

import argparse
import time

import _measure  # isort: skip  # noqa: F401  # sets thread counts before NumPy is imported

import numpy as np

import gradwire as gw
from gradwire_core.engine import Output, compile
from gradwire_core.structure import strategy
from gradwire_core.structure.strategy import forcing
from gradwire_core.transforms import Transform

WAYS = (
    strategy.STRUCTURED_FORWARD, strategy.STRUCTURED_REVERSE, strategy.CROSS_COUNTRY, strategy.COLOURED_FORWARD,
    strategy.COLOURED_REVERSE, strategy.STAR_COLOURING, strategy.DENSE_FORWARD, strategy.DENSE_REVERSE,
)  # fmt: skip
BAR = 1.5
REPEATS = 4

rng = np.random.default_rng(0)


def bratu(u):
    p = np.pad(u, 1)
    return 4 * u - p[2:, 1:-1] - p[:-2, 1:-1] - p[1:-1, 2:] - p[1:-1, :-2] - 0.01 * np.exp(u)


def twice(u):
    return bratu(np.sin(bratu(u)))


def broyden(x):
    p = np.pad(x, 1)
    return (3 - 2 * x) * x - p[:-2] - 2 * p[2:] + 1


def rosenbrock(x):
    return np.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def rosenbrock_sum(x):
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def arrowhead(x):
    return np.sum(np.sin(x[1:]) * x[0] ** 2 + x[1:] ** 4)


def products(x):
    for _ in range(12):
        x = np.concatenate([x[1:] * x[:-1], x[-1:]])
    return x


def layers(*sizes):
    weights = [rng.normal(size=pair) / np.sqrt(pair[1]) for pair in zip(sizes[1:], sizes[:-1], strict=True)]

    def function(x):
        for weight in weights:
            x = np.tanh(weight @ x)
        return x

    return function, rng.normal(size=sizes[0])


EDGES = rng.integers(0, 3000, size=(2, 9000))
DATA, LABELS = rng.normal(size=(400, 100)), rng.integers(0, 2, 400).astype(float)
T, V, W = rng.normal(size=(40, 40)), rng.normal(size=(40, 5)), rng.normal(size=(32, 32))


def mesh(x):
    flux = np.tanh(x[EDGES[0]] - x[EDGES[1]])
    return (x * 0.0).at[EDGES[0]].add(flux).at[EDGES[1]].add(-flux)


def logistic(w):
    z = DATA @ w
    return np.sum(np.log1p(np.exp(z)) - LABELS * z)


def decay(x):
    return gw.scan(lambda carry, item: (item, np.sin(carry * item)), np.zeros(()), x)[1]


def arm(x):
    angles = np.cumsum(x)
    return np.stack([np.sum(np.cos(angles)), np.sum(np.sin(angles))])


def links(q):
    x = y = 0.0
    for number in range(len(q)):
        cosine, sine = np.cos(q[number]), np.sin(q[number])
        x, y = cosine * (x + 1.0) - sine * y, sine * (x + 1.0) + cosine * y
    return np.stack([x, y])


CASES = {
    "sin, 2000": (np.sin, rng.normal(size=2000), "jacobian", "dense"),
    "X W^T, 32^4": (lambda x: x @ W.T, W, "jacobian", "dense"),
    "Bratu, 100 x 100": (bratu, rng.normal(size=(100, 100)), "jacobian", "sparse"),
    "Bratu, 20 x 20": (bratu, rng.normal(size=(20, 20)), "jacobian", "dense"),
    "Bratu of Bratu, 60 x 60": (twice, rng.normal(size=(60, 60)), "jacobian", "sparse"),
    "Broyden, 10000": (broyden, rng.normal(size=10_000), "jacobian", "sparse"),
    "Broyden, 500": (broyden, rng.normal(size=500), "jacobian", "dense"),
    "Rosenbrock residuals, 10000": (rosenbrock, rng.normal(size=10_000), "jacobian", "sparse"),
    "Rosenbrock Hessian, 10000": (rosenbrock_sum, rng.normal(size=10_000), "hessian", "sparse"),
    "Rosenbrock Hessian, 300": (rosenbrock_sum, rng.normal(size=300), "hessian", "dense"),
    "arrowhead Hessian, 2000": (arrowhead, rng.normal(size=2000), "hessian", "sparse"),
    "12 products of neighbours, 400": (products, 1 + 1e-5 * rng.normal(size=400), "jacobian", "sparse"),
    "12 products of neighbours, 100": (products, 1 + 1e-5 * rng.normal(size=100), "jacobian", "dense"),
    "mesh, 3000": (mesh, rng.normal(size=3000), "jacobian", "sparse"),
    "net 200-200-200-200": (*layers(200, 200, 200, 200), "jacobian", "dense"),
    "net 300-300-8-300-300": (*layers(300, 300, 8, 300, 300), "jacobian", "dense"),
    "net 400-50-4": (*layers(400, 50, 4), "jacobian", "dense"),
    "net 4-50-400": (*layers(4, 50, 400), "jacobian", "dense"),
    "net 6-6-6": (*layers(6, 6, 6), "jacobian", "dense"),
    "logistic Hessian, 400 x 100": (logistic, rng.normal(size=100), "hessian", "dense"),
    "|T - U V^T|^2 Hessian, 40, 5": (lambda u: np.sum((T - u @ V.T) ** 2), V, "hessian", "dense"),
    "scan, 60": (decay, rng.normal(size=60), "jacobian", "dense"),
    "arm of 6": (arm, rng.normal(size=6), "jacobian", "dense"),
    "arm of 2, number by number": (links, rng.normal(size=2), "jacobian", "dense"),
    "arm of 6, number by number": (links, rng.normal(size=6), "jacobian", "dense"),
}


def measure(executables, inputs, rounds=6):
    """Return the least seconds of each executable, run in turns; ways that came to the same program are one."""
    distinct = {executable.program.digest: executable for executable in executables.values()}
    times = {digest: [] for digest in distinct}
    for _ in range(rounds):
        for digest, executable in distinct.items():
            for _ in range(REPEATS):  # so that each finds memory and caches as it left them
                start = time.perf_counter()
                executable.run(inputs)
                times[digest].append(time.perf_counter() - start)
    return {name: min(times[executable.program.digest]) for name, executable in executables.items()}


def compare(function, x, transform, layout):
    """Return the choice, and the predicted and the measured seconds of each way there is."""
    trace = gw.trace(function, x)
    inputs = [x, *trace.captured]
    output = [Output((Transform(transform),), layout)]
    executables, predicted = {}, {}
    for way in WAYS:
        try:
            with forcing(way):
                executables[way] = compile(trace, output)
        except LookupError:
            continue
        predicted[way] = dict(executables[way].plan.choices[0].predictions)[way].seconds
    return compile(trace, output).plan.choices[0].chosen, predicted, measure(executables, inputs)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="parts of names of cases")
    chosen_cases = [name for name in CASES if not (only := parser.parse_args().only) or any(item in name for item in only)]
    worst = 0.0
    for name in chosen_cases:
        chosen, predicted, measured = compare(*CASES[name])
        ratio = measured[chosen] / min(measured.values())
        worst = max(worst, ratio)
        print(f"{name} ({CASES[name][2]}, {CASES[name][3]}): {chosen}, {ratio:.2f} of the fastest{' <--' if ratio > BAR else ''}")
        for way, seconds in sorted(measured.items(), key=lambda item: item[1]):
            print(f"    {way:<20} {seconds * 1e6:10.0f} us, predicted {predicted[way] * 1e6:10.0f} us")
    print(f"worst: {worst:.2f} of the fastest (bar {BAR})")


if __name__ == "__main__":
    main()
