"""Write docs/errors.md and docs/primitives.md from the code: `make docs`.

With --check, nothing is written, and the exit code is 1 if a page is stale.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from gradwire_core.errors import GradwireError
from gradwire_core.ops import PRIMITIVES
from gradwire_core.program import Constant, Linear, Primitive, Tangent, Whole

FOLDER = Path(__file__).parent


def errors() -> str:
    """The page of the error tree: one row a class."""
    rows = [(f"`{kind.__name__}`", f"`{kind.reason}`", f"`{kind.code}`", _summary(kind)) for kind in _subclasses(GradwireError)]
    return _page(
        "Errors",
        "Every error is a `GradwireError`. The SDK raises the class that the server raised, with its message and metadata. On the\n"
        "wire it is a `google.rpc.Status` of this code, whose `ErrorInfo` has this reason and the domain `gradwire.v1`.\n"
        "NaN and inf are results, not errors.",
        ("class", "reason", "gRPC code", "raised"),
        rows,
    )


def primitives() -> str:
    """The page of the primitives: one row each."""
    rows = [
        (f"`{name}`", "any" if op.arity is None else str(op.arity), ", ".join(op.params), _kinds(op), op.doc)
        for name, op in sorted(PRIMITIVES.items())
    ]
    return _page(
        "Primitives",
        f"The {len(rows)} operations of a program. The derivative in an operand is given by a rule (R), or the operation is\n"
        "linear in it (L), or constant but for jumps (C); some have one rule for all operands together (W).",
        ("name", "operands", "params", "derivatives", "computes"),
        rows,
    )


def _kinds(op: Primitive) -> str:
    letters = {Tangent: "R", Linear: "L", Constant: "C", Whole: "W"}
    if op.arity is None:
        return f"{letters[type(op.derivative(0))]} each"
    return ", ".join(letters[type(op.derivative(position))] for position in range(op.arity))


def _subclasses(kind: type[GradwireError]) -> Iterator[type[GradwireError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ").removeprefix("Raised ")


def _page(title: str, opening: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    table = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join([f"# {title}", "", opening, "", *(f"| {' | '.join(row)} |" for row in table), ""])


def main() -> int:
    """Write the pages, or with --check compare them."""
    stale = []
    for name, content in (("errors.md", errors()), ("primitives.md", primitives())):
        path = FOLDER / name
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        stale.append(name)
        if "--check" not in sys.argv[1:]:
            path.write_text(content, encoding="utf-8")
            print(f"wrote docs/{name}")
    if "--check" in sys.argv[1:] and stale:
        print(f"docs: the generated pages must be fresh, {', '.join(stale)} is not; run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
