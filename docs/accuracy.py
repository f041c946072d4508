"""Write docs/accuracy.md: how far each elementwise primitive and its derivative are from mpmath, in units in the last place.

Run it from the root of the repository: `python docs/accuracy.py`. It takes some minutes.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import scipy

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gradwire_core.ops import PRIMITIVES  # noqa: E402
from gradwire_core.program import Constant, Program, Sample  # noqa: E402
from gradwire_core.testing import interpret, primitive_program  # noqa: E402
from gradwire_core.transforms import jvp  # noqa: E402
from tests.core.references import REFERENCES, REFUSED, exact_partial, exact_value, points_of  # noqa: E402

POINTS = 24
Point = tuple[float, ...]
HEAD = """# Accuracy

What float64 loses, beside mpmath at 50 digits. For each elementwise primitive: the worst error of its value and of its
derivatives at {count} points drawn from its domain, and the worst at chosen points in its tails, in units in the last place of the
exact number (0 is the nearest float64; one is a relative error of 1e-16 to 2e-16; 1e-11 is 45,000 to 90,000). Then the point in
question. Operands in which a function has no derivative, or a constant one, do not count. The tests hold every entry to a relative
error of 1e-11.

Values are NumPy's and SciPy's own, so their errors are those of the libraries (NumPy {numpy}, SciPy {scipy}); a derivative can be
no better than the values it is made of. Errors are large where a function is near a zero of its own: there, the conditioning is to
blame.

Written by `python docs/accuracy.py`; on another machine or with another library last digits differ.

| primitive | value | derivative | value, tails | derivative, tails | worst derivative at |
| --- | --- | --- | --- | --- | --- |
"""


def errors(program: Program, columns: list[Any], points: list[Point], exact: Callable[[Point], Any]) -> list[float]:
    """Return how far the output of a program is off at each point, in units in the last place."""
    (given,) = interpret(program, columns)
    found = []
    with mpmath.workdps(60):
        for point, number in zip(points, given, strict=True):
            needed = exact(point)
            unit = float(np.spacing(abs(float(needed))))
            found.append(0.0 if float(needed) == number else float(abs(mpmath.mpf(float(number)) - needed) / unit))
    return found


def row(name: str) -> str:
    """Return the line of a primitive."""
    points = points_of(name, POINTS)
    columns = [np.array(column) for column in zip(*points, strict=True)]
    program = primitive_program(PRIMITIVES[name], Sample(tuple(columns)))
    values = errors(program, columns, points, lambda point: exact_value(name, point))
    slopes = [0.0] * len(points)
    for place in range(len(columns)):
        if place in REFUSED.get(name, ()) or isinstance(PRIMITIVES[name].derivative(place), Constant):
            continue
        derivative = jvp(program, (place,))
        found = errors(
            derivative, [*columns, np.ones(len(points))], points, lambda point, place=place: exact_partial(name, point, place)
        )
        slopes = list(map(max, slopes, found))
    worst = points[int(np.argmax(slopes))]
    cells = [show(values[:POINTS]), show(slopes[:POINTS]), show(values[POINTS:]), show(slopes[POINTS:])]
    return f"| `{name}` | {' | '.join(cells)} | {', '.join(f'{item:.6g}' for item in worst) if max(slopes) else ''} |"


def show(found: list[float]) -> str:
    """Return the worst error as text."""
    return f"{max(found):.1f}" if found else ""


def main() -> None:
    """Write the page."""
    head = HEAD.format(count=POINTS, numpy=np.__version__, scipy=scipy.__version__)
    lines = []
    for name in sorted(REFERENCES):
        lines.append(row(name))
        print(lines[-1])
    (ROOT / "docs" / "accuracy.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
