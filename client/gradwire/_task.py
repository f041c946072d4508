"""What is asked of a function, and the task a backend runs for it. Nothing here does I/O.

A `Form` names a derivative and its options. `prepare` turns it, for a trace, into the outputs of a task and the way to put
their results back into the shapes and nesting that the user sees. A `Task` adds the numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

from gradwire._nest import LEAF, Structure, positional
from gradwire._tracing import Trace
from gradwire_core.errors import ArgumentError
from gradwire_core.program import Program
from gradwire_core.types import Array

if TYPE_CHECKING:
    from gradwire_core.engine import Output

Argnums: TypeAlias = int | tuple[int, ...]
Results: TypeAlias = Sequence[Sequence[Any]]
Layout: TypeAlias = Literal["dense", "structured", "sparse"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
Format: TypeAlias = Literal["text", "latex", "data"]
FORMATS: tuple[Format, ...] = get_args(Format)
EXPLAINED = (
    "evaluate",
    "grad",
    "value_and_grad",
    "jacobian",
    "hessian",
    "jacobian_det",
    "jacobian_slogdet",
    "jacobian_logvolume",
)


class Form(NamedTuple):
    """What is asked of a function.

    Attributes:
        kind: the name of the SDK's function: `grad`, `jvp`, ...
        argnums: the arguments, as the user gave them; for `jvp`, `vjp` and `hvp` the leaves, as numbers.
        layout: of a Jacobian or Hessian, one of `LAYOUTS`.
        in_axes: for `vmap`, the batch axis of each leaf.
        axis_size: for `vmap`, the number of elements of the batch.
    """

    kind: str
    argnums: Argnums = 0
    layout: str = "dense"
    in_axes: tuple[int | None, ...] = ()
    axis_size: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A form, worked out for one trace.

    Attributes:
        outputs: what a task asks for.
        rebuild: puts the results of the outputs together for the user.
    """

    outputs: tuple[Output, ...]
    rebuild: Callable[[Results], Any]


class Task(NamedTuple):
    """One evaluation: a program, its numbers, the outputs, and what becomes of the results.

    Attributes:
        program: the program.
        outputs: what is asked of it.
        inputs: an array for each input.
        seeds: for each output, the tangents or cotangents that its transforms add.
        reproducible: whether the answer must repeat to the last bit.
        rebuild: puts the results together for the user.
    """

    program: Program
    outputs: tuple[Output, ...]
    inputs: Sequence[Array]
    seeds: Sequence[Sequence[Array]]
    reproducible: bool
    rebuild: Callable[[Results], Any]


def prepare(trace: Trace, form: Form) -> Prepared:
    """Return the outputs of a form and how their results are put together; worked out once a trace.

    Raises:
        ArgumentError: the form does not fit the function's arguments.
    """
    found: Prepared | None = trace.prepared.get(form)
    if found is None:
        found = trace.prepared[form] = _PREPARE[form.kind](trace, form)
    return found


def output(form: Form, name: str | None = None, argnums: tuple[int, ...] = (), layout: str = "dense") -> Output:
    """Return the output of one transform, named as the form unless told otherwise."""
    from gradwire_core.engine import Output
    from gradwire_core.transforms import Transform

    return Output((Transform(name or form.kind, argnums, form.in_axes, form.axis_size),), layout)


def _value() -> Output:
    from gradwire_core.engine import Output

    return Output()


# -- which leaves -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """The leaves of the arguments that a derivative is taken in.

    Attributes:
        leaves: their numbers.
        structures: the structures of the chosen arguments.
        is_single: whether one argument was chosen by a plain int.
    """

    leaves: tuple[int, ...]
    structures: tuple[Structure, ...]
    is_single: bool

    @property
    def is_array(self) -> bool:
        """Whether that is one argument, and an array."""
        return self.is_single and self.structures[0] is LEAF

    def regroup(self, items: Sequence[Any]) -> Any:
        """Return one item a leaf, nested as the arguments are: one result for an int, a tuple for a tuple."""
        if self.is_array:
            return items[0]
        rest = iter(items)
        groups = [structure.unflatten(list(itertools.islice(rest, structure.count))) for structure in self.structures]
        return groups[0] if self.is_single else tuple(groups)


def check_form(form: Form) -> None:
    """Check that `argnums` is a number or a tuple of numbers, and that there is such a layout.

    Raises:
        ArgumentError: one is something else.
    """
    if form.layout not in LAYOUTS:
        names = ", ".join(LAYOUTS)
        raise ArgumentError(f"{form.kind}: needed a layout among {names}, got {form.layout!r}; choose one", given=form.layout)
    given = form.argnums if isinstance(form.argnums, tuple) else (form.argnums,)
    if any(isinstance(number, bool) or not hasattr(number, "__index__") for number in given):
        text = f"{form.kind}: needed argnums that are an int or a tuple of ints, got {form.argnums!r}; write 0 or (0, 1)"
        raise ArgumentError(text, argnums=form.argnums)


def check_explained(form: Form, format: str) -> None:
    """Check that there is such a form to be explained, and such a format.

    Raises:
        ArgumentError: there is not.
    """
    for what, names, given in (("transform", EXPLAINED, form.kind), ("format", FORMATS, format)):
        if given not in names:
            raise ArgumentError(f"explain: needed a {what} among {', '.join(names)}, got {given!r}; choose one", given=given)
    check_form(form)


def select(trace: Trace, form: Form) -> Selection:
    """Return the leaves of the arguments that `argnums` chooses.

    Raises:
        ArgumentError: there is no such argument, or one is chosen twice, or none.
    """
    where = f"{form.kind}({trace.name})"
    arguments = positional(trace.arguments)
    is_single = not isinstance(form.argnums, tuple)
    given = form.argnums if isinstance(form.argnums, tuple) else (form.argnums,)
    count = len(arguments)
    chosen = [number + count if number < 0 else number for number in given]
    if not given or any(not 0 <= number < count for number in chosen) or len(set(chosen)) != len(chosen):
        text = (
            f"{where}: needed argnums that choose among {count} positional arguments, each once, got {form.argnums}; count from 0"
        )
        raise ArgumentError(text, argnums=form.argnums, count=count)
    starts = list(itertools.accumulate((item.count for item in arguments), initial=0))
    leaves = tuple(leaf for number in chosen for leaf in range(starts[number], starts[number + 1]))
    if not leaves:
        raise ArgumentError(
            f"{where}: needed arguments that hold arrays, got none in argnums {form.argnums}; choose others", argnums=form.argnums
        )
    return Selection(leaves, tuple(arguments[number] for number in chosen), is_single)


# -- the forms ----------------------------------------------------------------------------------------------------------------


def _of_results(trace: Trace) -> Callable[[Sequence[Any]], Any]:
    """Return what nests one item an output as the function's results are nested."""
    return _first if trace.results is LEAF else trace.results.unflatten


def _first(items: Sequence[Any]) -> Any:
    return items[0]


def _evaluate(trace: Trace, form: Form) -> Prepared:
    del form
    rebuild = _of_results(trace)
    return Prepared((_value(),), lambda results: rebuild(results[0]))


def _only(results: Results) -> Any:
    return results[0][0]


def _grad(trace: Trace, form: Form) -> Prepared:
    chosen = select(trace, form)
    if chosen.is_array:
        return Prepared((output(form, argnums=chosen.leaves),), _only)
    return Prepared((output(form, argnums=chosen.leaves),), lambda results: chosen.regroup(results[0]))


def _value_and_grad(trace: Trace, form: Form) -> Prepared:
    chosen, value = select(trace, form), _of_results(trace)
    gradient = output(form, "grad", chosen.leaves)
    return Prepared((_value(), gradient), lambda results: (value(results[0]), chosen.regroup(results[1])))


def _jacobian(trace: Trace, form: Form) -> Prepared:
    chosen, outer, names = select(trace, form), _of_results(trace), _output_names(trace)

    def rebuild(results: Results) -> Any:
        rows = _called(trace, form, chosen.leaves, names, results[0])
        return outer([chosen.regroup(row) for row in rows])

    if chosen.is_array and trace.results is LEAF and form.layout != "structured":
        return Prepared((output(form, argnums=chosen.leaves, layout=form.layout),), _only)
    return Prepared((output(form, argnums=chosen.leaves, layout=form.layout),), rebuild)


def _hessian(trace: Trace, form: Form) -> Prepared:
    chosen = select(trace, form)
    gradients = [f"(d{_output_names(trace)[0]}/d{trace.names[leaf]})" for leaf in chosen.leaves] if trace.names else []

    def rebuild(results: Results) -> Any:
        rows = _called(trace, form, chosen.leaves, gradients, results[0])
        return chosen.regroup([chosen.regroup(row) for row in rows])

    return Prepared((output(form, argnums=chosen.leaves, layout=form.layout),), rebuild)


def _number(trace: Trace, form: Form) -> Prepared:
    """Prepare `jacobian_det` and `jacobian_logvolume`."""
    return Prepared((output(form, argnums=select(trace, form).leaves),), lambda results: results[0][0])


def _jacobian_slogdet(trace: Trace, form: Form) -> Prepared:
    return Prepared((output(form, argnums=select(trace, form).leaves),), lambda results: tuple(results[0]))


def _leaves(form: Form) -> tuple[int, ...]:
    assert isinstance(form.argnums, tuple)
    return form.argnums


def _jvp(trace: Trace, form: Form) -> Prepared:
    nest = _of_results(trace)
    return Prepared((_value(), output(form, argnums=_leaves(form))), lambda results: (nest(results[0]), nest(results[1])))


def _follow_leaves(trace: Trace, form: Form) -> Prepared:
    """Prepare `vjp` and `hvp`: a result for each chosen leaf, None for the others, nested as the arguments are."""
    leaves, count, structure = _leaves(form), trace.arguments.count, trace.arguments

    def rebuild(results: Results) -> Any:
        items: list[Any] = [None] * count
        for leaf, item in zip(leaves, results[0], strict=True):
            items[leaf] = item
        return structure.unflatten(items)

    return Prepared((output(form, argnums=leaves),), rebuild)


def _vmap(trace: Trace, form: Form) -> Prepared:
    nest = _of_results(trace)
    axes = (*form.in_axes, *[None] * len(trace.captures))
    return Prepared((output(form._replace(in_axes=axes)),), lambda results: nest(results[0]))


_PREPARE: dict[str, Callable[[Trace, Form], Prepared]] = {
    "evaluate": _evaluate,
    "grad": _grad,
    "value_and_grad": _value_and_grad,
    "jacobian": _jacobian,
    "hessian": _hessian,
    "jacobian_det": _number,
    "jacobian_logvolume": _number,
    "jacobian_slogdet": _jacobian_slogdet,
    "jvp": _jvp,
    "vjp": _follow_leaves,
    "hvp": _follow_leaves,
    "vmap": _vmap,
}


def _called(
    trace: Trace, form: Form, leaves: Sequence[int], outputs: Sequence[str], items: Sequence[Any]
) -> Iterator[Sequence[Any]]:
    """Yield a row of results an output, a result a leaf; structured ones print with the names of the function's arguments."""
    rows = _rows(items, len(leaves))
    if form.layout != "structured" or not trace.names:
        return rows
    return (
        [item.named(output, trace.names[leaf], trace.names) for item, leaf in zip(row, leaves, strict=True)]
        for row, output in zip(rows, outputs, strict=True)
    )


def _output_names(trace: Trace) -> list[str]:
    """Return what the outputs are called: in small letters if the arguments are, and as none of them."""
    letters = "yzfr" if all(map(str.islower, trace.names)) else "YZFR"
    name = next((letter for letter in letters if letter not in trace.names), "result")
    count = trace.results.count
    return [name] if count == 1 else [f"{name}{number}" for number in range(count)]


def _rows(items: Sequence[Any], length: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + length] for start in range(0, len(items), length))
