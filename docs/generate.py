"""Write docs/errors.md, docs/primitives.md and docs/coverage.md from the code and docs/peers.toml: `make docs`.

With --check, nothing is written, and the exit code is 1 if a page is stale.
"""

import functools
import importlib
import inspect
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gradwire._refusals import REFUSALS
from gradwire_core.builder import FOREIGN, FUNCTIONS, Value
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


def coverage() -> str:
    """The page of what five peers have, and what has it here."""
    importlib.import_module("gradwire.numpy")  # fills FUNCTIONS
    data = tomllib.loads((FOLDER / "peers.toml").read_text(encoding="utf-8"))
    peers, ours = data["peers"], data["ours"]
    lines, missing, counts = [], {}, {}
    for group, ranks in data["groups"].items():
        rows = []
        for rank, items in ranks.items():
            for name, holders in items.items():
                place = _place(ours.get(name), name)
                counts[rank] = counts.get(rank, 0) + 1
                if not place:
                    missing.setdefault(rank, []).append(name)
                shown = f"`{place}`" if place else "-"
                rows.append((f"`{name}`", RANKS[rank], shown, *("x" if letter in holders else "" for letter in peers)))
        head = ("operation", "who needs it", "gradwire", *(item.split()[0].rstrip(",") for item in peers.values()))
        lines += ["", f"## {group.capitalize()}", "", *_table(head, rows)]
    return "\n".join(["# Coverage", "", *_opening(peers, counts, missing), *lines, ""])


RANKS = {"must": "three or more", "two": "two", "rare": "one"}
PLACES = ("gradwire.linalg", "gradwire.special", "gradwire.numpy", "gradwire.fft", "gradwire")


def _opening(peers: dict[str, str], counts: dict[str, int], missing: dict[str, list[str]]) -> Iterator[str]:
    yield f"What {', '.join(peers.values())} differentiate, and what serves it"
    yield "here. Functions of `numpy` and `scipy.special` are called by those names; `x` is a traced array, and `primitives` are"
    yield "what operators write. An x in a column says that the peer has it."
    yield ""
    for rank, text in RANKS.items():
        lacking = missing.get(rank, [])
        names = f"; missing: {', '.join(f'`{name}`' for name in lacking)}" if lacking else ""
        yield f"- Of the {counts[rank]} operations that {text} of the five have, gradwire has {counts[rank] - len(lacking)}{names}."
    yield f"- gradwire computes all of them by [{len(PRIMITIVES)} primitives](primitives.md)."


def _place(place: str | None, name: str) -> str | None:
    """Return where users find an operation, by the name it has here; None if it is not there."""
    candidates = [place] if place else [f"numpy.{name}", f"numpy.linalg.{name}", f"numpy.fft.{name}", f"scipy.special.{name}"]
    candidates += [] if place else [f"{module}.{name}" for module in PLACES]
    return next((item for item in candidates if _is_there(item)), None)


def _is_there(place: str) -> bool:
    """Whether gradwire traces a function of NumPy or SciPy, or has one of its own."""
    root, _, name = place.rpartition(".")
    if root == "x":
        return hasattr(Value, name)
    if root == "primitives":
        return name in PRIMITIVES
    if root.startswith("numpy"):
        function = getattr(importlib.import_module(root), name, None)
        return name not in REFUSALS and callable(function) and function in FUNCTIONS
    if root == "scipy.special":
        return place in FOREIGN
    return _find(place) is not None


def _find(place: str) -> Any:
    """Return what stands at a place: a module, then attributes; None if nothing does."""
    parts = place.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        found = functools.reduce(lambda item, name: getattr(item, name, None), parts[count:], module)
        return found if getattr(found, "__module__", "").split(".")[0] != "numpy" else None
    return None


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
    return "\n".join([f"# {title}", "", opening, "", *_table(head, rows), ""])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return [f"| {' | '.join(row)} |" for row in table]


def main() -> int:
    """Write the pages, or with --check compare them."""
    stale = []
    for name, content in (("errors.md", errors()), ("primitives.md", primitives()), ("coverage.md", coverage())):
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
