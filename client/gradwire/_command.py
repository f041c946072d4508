"""`gradwire eval`, `gradwire explain` and `gradwire trace`: derivatives of an expression, for people at a terminal.

The expression is that of `from_expression`; the arguments are `NAME=VALUE`, where a value is an expression without arguments, or
`@FILE.npy`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

from gradwire._embedded import EMBEDDED
from gradwire._expression import Expression, from_expression
from gradwire._names import nearest
from gradwire._program import Program
from gradwire._task import EXPLAINED, LAYOUTS
from gradwire._transforms import Functions
from gradwire_core.errors import ArgumentError, GradwireError
from gradwire_core.structure.structured import StructuredJacobian
from gradwire_core.types import Array, Dtype

BAD_USE = 2
PRINTED = 8  # significant digits of a table


class _Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest option, in the words of gradwire."""

    def error(self, message: str) -> NoReturn:
        """Print what was needed and leave with code 2."""
        unknown = [word for word in message.split() if word.startswith("-")]
        options = [option for action in self._actions for option in action.option_strings]
        near = nearest(unknown[0].partition("=")[0], options) if unknown else None
        advice = f"the nearest option is {near}" if near else f"see {self.prog} --help"
        print(f"{self.prog}: {message}; {advice}", file=sys.stderr)
        raise SystemExit(BAD_USE)


def evaluate(arguments: Sequence[str]) -> int:
    """Compute an expression and its derivatives."""
    parser = _parser("eval", evaluate.__doc__)
    for name, text in (
        ("grad", "the gradient of a scalar expression"),
        ("jacobian", "all first derivatives"),
        ("hessian", "all second derivatives of a scalar expression"),
        ("jacobian-det", "the determinant of the square Jacobian"),
        ("jacobian-slogdet", "its sign and logarithm"),
        ("jacobian-logvolume", "the logarithm of its volume, with as many rows as columns or more"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument("--jvp", metavar="TANGENTS", help="the directional derivative, such as --jvp 'x=1, y=[0, 1]'")
    parser.add_argument("--vjp", metavar="COTANGENT", help="the cotangents of the arguments, for one of the result")
    parser.add_argument("--hvp", metavar="TANGENTS", help="the Hessian times a vector, such as --hvp 'x=1'")
    parser.add_argument("--wrt", metavar="NAMES", help="the arguments of the derivatives, such as x,y; by default all")
    parser.add_argument("--layout", choices=LAYOUTS, default="dense", help="of the Jacobian and the Hessian")
    parser.add_argument("--target", metavar="HOST:PORT", help="a server that computes; by default this process does")
    parser.add_argument("--reproducible", action="store_true", help="answer to the last bit as every other backend")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return _run("eval", parser, arguments, _evaluate)


def explain(arguments: Sequence[str]) -> int:
    """Show how an expression or a derivative of it is computed, and what it costs."""
    parser = _parser("explain", explain.__doc__)
    parser.add_argument("--of", choices=EXPLAINED, default="evaluate", help="what is explained")
    parser.add_argument("--wrt", metavar="NAMES", help="the arguments of the derivative, such as x,y; by default all")
    parser.add_argument("--layout", choices=LAYOUTS, default="dense", help="of a Jacobian or Hessian")
    parser.add_argument("--target", metavar="HOST:PORT", help="a server that explains; by default this process does")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--latex", action="store_true", help="print LaTeX")
    shape.add_argument("--json", action="store_true", help="print JSON")
    return _run("explain", parser, arguments, _explain)


def trace(arguments: Sequence[str]) -> int:
    """Print the program of an expression or of a derivative of it."""
    parser = _parser("trace", trace.__doc__)
    parser.add_argument("--of", choices=EXPLAINED, default="evaluate", help="what is traced")
    parser.add_argument("--wrt", metavar="NAMES", help="the arguments of the derivative, such as x,y; by default all")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--numpy", action="store_true", help="print it as plain NumPy source")
    shape.add_argument("--json", action="store_true", help="print the message of gradwire.v1 that describes it")
    return _run("trace", parser, arguments, _trace)


def _parser(name: str, summary: str | None) -> _Parser:
    epilog = "A value is an expression, such as 1.2, [1, 2, 3] or pi/2, or @FILE.npy. Put a space before a minus that comes first."
    parser = _Parser(prog=f"gradwire {name}", description=summary, epilog=epilog, allow_abbrev=False)
    parser.add_argument("expression", help='such as "log(sin(x)) * y"')
    parser.add_argument("arguments", nargs="*", metavar="NAME=VALUE", help="the arguments of the expression")
    parser.add_argument("--dtype", help="of the arguments; float64 by default, or as in a file", default=None)
    return parser


def _run(name: str, parser: _Parser, arguments: Sequence[str], command: Callable[[Any, Expression, list[Array]], str]) -> int:
    try:
        options = parser.parse_intermixed_args(list(arguments))
        given = dict(_assignment(item) for item in options.arguments)
        f = from_expression(options.expression)
        print(command(options, f, _values(f, given, options.dtype)))
    except SystemExit as stop:  # after --help or a wrong option
        return int(stop.code or 0)
    except GradwireError as error:
        print("\n".join([f"gradwire {name}: {error.message}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return BAD_USE
    return 0


# -- arguments -----------------------------------------------------------------------------------------------------------------


def _assignment(item: str) -> tuple[str, str]:
    name, mark, value = item.partition("=")
    if not mark or not name.strip().isidentifier():
        raise ArgumentError(f"arguments: needed NAME=VALUE, got {item!r}; write it so, without spaces", given=item)
    return name.strip(), value


def _values(f: Expression, given: dict[str, str], dtype: str | None) -> list[Array]:
    missing = [name for name in f.names if name not in given]
    if missing:
        raise ArgumentError(
            f"{f.__name__}: needed a value for {', '.join(missing)}, got none; add {missing[0]}=VALUE", missing=missing
        )
    for name in given:
        if name not in f.names:
            known = ", ".join(f.names) or "none"
            raise ArgumentError(f"{f.__name__}: needed arguments among {known}, got {name}; leave it out", given=name)
    return [_value(given[name], dtype) for name in f.names]


def _value(text: str, dtype: str | None = None) -> Array:
    """Return the array that a text describes, in float64 unless it is complex, comes from a file, or is told."""
    if text.startswith("@"):
        try:
            array = np.load(text[1:], allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ArgumentError(
                f"arguments: needed a file of NumPy, got {text[1:]} ({error}); check the path", given=text
            ) from error
    else:
        f = from_expression(text)
        if f.names:
            raise ArgumentError(f"arguments: needed a value, got {text!r}, which needs {f.names[0]}; write numbers", given=text)
        array = np.asarray(f())
        array = array if array.dtype.kind == "c" else array.astype(np.float64)
    return np.asarray(array, None if dtype is None else Dtype.of(_dtype(dtype)).numpy)


def _dtype(name: str) -> Any:
    try:
        return np.dtype(name)
    except TypeError:
        raise ArgumentError(f"--dtype: needed a dtype such as float32, got {name!r}; choose one", given=name) from None


def _argnums(f: Expression, wrt: str | None) -> tuple[int, ...]:
    names = [item.strip() for item in wrt.split(",")] if wrt else list(f.names)
    for name in names:
        if name not in f.names:
            raise ArgumentError(f"--wrt: needed arguments among {', '.join(f.names)}, got {name!r}; choose those", given=name)
    return tuple(f.names.index(name) for name in names)


def _directions(option: str, text: str, f: Expression, values: Sequence[Array]) -> tuple[Array | None, ...]:
    """Return the tangents that `x=1, y=[0, 1]` describes, in the order of the arguments; None for those left out."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError):
        call = None
    if not isinstance(call, ast.Call) or call.args or not call.keywords or any(item.arg not in f.names for item in call.keywords):
        names = ", ".join(f.names)
        raise ArgumentError(f"--{option}: needed NAME=TANGENT of {names}, joined by commas, got {text!r}; write it so", given=text)
    given = {item.arg: ast.unparse(item.value) for item in call.keywords}
    return tuple(
        np.asarray(_value(given[name]), value.dtype) if name in given else None for name, value in zip(f.names, values, strict=True)
    )


# -- the commands --------------------------------------------------------------------------------------------------------------


def _evaluate(options: Any, f: Expression, values: list[Array]) -> str:
    argnums = _argnums(f, options.wrt)
    chosen = [f.names[number] for number in argnums]
    answers: dict[str, Any] = {}
    with _backend(options.target) as backend:

        def ask(kind: str) -> Any:
            given = {"layout": options.layout} if kind in {"jacobian", "hessian"} else {}
            if kind != "evaluate":
                given["argnums"] = argnums
            return getattr(backend, kind)(f, **given, reproducible=options.reproducible)(*values)

        answers["value"] = ask("evaluate")
        if options.grad:
            answers["grad"] = dict(zip(chosen, ask("grad"), strict=True))
        if options.jacobian:
            answers["jacobian"] = _name_columns(ask("jacobian"), chosen)
        if options.hessian:
            rows = ask("hessian")
            answers["hessian"] = {name: dict(zip(chosen, row, strict=True)) for name, row in zip(chosen, rows, strict=True)}
        if options.jacobian_det:
            answers["jacobian_det"] = ask("jacobian_det")
        if options.jacobian_slogdet:
            answers["jacobian_slogdet"] = dict(zip(("sign", "logabsdet"), ask("jacobian_slogdet"), strict=True))
        if options.jacobian_logvolume:
            answers["jacobian_logvolume"] = ask("jacobian_logvolume")
        answers |= _directed(options, backend, f, values)
    arguments = dict(zip(f.names, values, strict=True))
    if options.json:
        return json.dumps({"expression": f.text, "arguments": _plain(arguments), **_plain(answers)}, allow_nan=False)
    return _table(f, arguments, answers)


def _directed(options: Any, backend: Functions, f: Expression, values: list[Array]) -> dict[str, Any]:
    """Return what is asked for along a direction."""
    answers: dict[str, Any] = {}
    settings = {"reproducible": options.reproducible}
    if options.jvp is not None:
        answers["jvp"] = backend.jvp(f, tuple(values), _directions("jvp", options.jvp, f, values), **settings)[1]
    if options.vjp is not None:
        value, pullback = backend.vjp(f, *values, **settings)
        answers["vjp"] = dict(zip(f.names, pullback(np.asarray(_value(options.vjp), np.asarray(value).dtype)), strict=True))
    if options.hvp is not None:
        found = backend.hvp(f, tuple(values), _directions("hvp", options.hvp, f, values), **settings)
        answers["hvp"] = {name: item for name, item in zip(f.names, found, strict=True) if item is not None}
    return answers


def _name_columns(found: Any, chosen: Sequence[str]) -> Any:
    """Return the Jacobians by argument, for each result."""
    if found and isinstance(found[0], tuple):
        return [_name_columns(item, chosen) for item in found]
    return dict(zip(chosen, found, strict=True))


@contextlib.contextmanager
def _backend(target: str | None) -> Iterator[Functions]:
    if target is None:
        yield EMBEDDED
    else:
        from gradwire._client import connect

        with connect(target) as client:
            yield client


def _explain(options: Any, f: Expression, values: list[Array]) -> str:
    format = "latex" if options.latex else "data" if options.json else "text"
    with _backend(options.target) as backend:
        asked = {"transform": options.of, "argnums": _argnums(f, options.wrt), "layout": options.layout, "format": format}
        found = backend.explain(f, *values, **asked)
    return json.dumps(found, allow_nan=False) if options.json else found


def _trace(options: Any, f: Expression, values: list[Array]) -> str:
    program: Program = EMBEDDED.trace(f, *values)
    if options.of != "evaluate":
        program = getattr(EMBEDDED, options.of)(program, _argnums(f, options.wrt))
    if options.numpy:
        return program.numpy_source().rstrip()
    if options.json:
        from google.protobuf import json_format

        return json_format.MessageToJson(program.to_proto(), indent=2)
    return str(program)


# -- printing ------------------------------------------------------------------------------------------------------------------


def _table(f: Expression, arguments: dict[str, Array], answers: dict[str, Any]) -> str:
    rows = [("expression", f.text), *arguments.items()]
    rows += [row for name, item in answers.items() for row in _rows(name, item)]
    width = max(len(name) for name, _ in rows)
    lines = []
    for name, item in rows:
        text = item if isinstance(item, str) else _show(item)
        first, *rest = text.split("\n")
        lines += [f"{name:<{width}}  {first}", *(" " * (width + 2) + line for line in rest)]
    return "\n".join(lines)


def _rows(name: str, item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, dict):
        for key, part in item.items():
            yield from _rows(f"{name} {key}", part)
    elif isinstance(item, (tuple, list)):
        for number, part in enumerate(item):
            yield from _rows(f"{name} [{number}]", part)
    else:
        yield name, item


def _is_sparse(item: Any) -> bool:
    return getattr(item, "format", "") == "csr"


def _show(item: Any) -> str:
    if isinstance(item, StructuredJacobian) or _is_sparse(item):
        return str(item).expandtabs()
    array = np.asarray(item)
    if array.dtype.kind in "fc":
        array = array + 0  # -0.0 is printed as 0
    if array.ndim == 0:
        return f"{array[()]:.12g}" if array.dtype.kind in "fc" else str(array[()])
    return np.array2string(array, precision=PRINTED, separator=", ", max_line_width=100)


def _plain(item: Any) -> Any:
    """Return what JSON can hold: NaN and inf as text, complex numbers by their parts."""
    if isinstance(item, StructuredJacobian):
        item = {"notation": item.pattern, "factors": item.factors}
    elif _is_sparse(item):
        item = {name: getattr(item, name) for name in ("shape", "indptr", "indices", "data")}
    elif isinstance(item, (np.ndarray, np.generic)):
        item = item.tolist()
    if isinstance(item, dict):
        return {key: _plain(part) for key, part in item.items()}
    if isinstance(item, (tuple, list)):
        return [_plain(part) for part in item]
    if isinstance(item, complex):
        return {"real": _plain(item.real), "imag": _plain(item.imag)}
    if isinstance(item, float) and not np.isfinite(item):
        return "NaN" if np.isnan(item) else "Infinity" if item > 0 else "-Infinity"
    return item
