"""Loops compiled by LLVM: a program of elementwise equations over one space, and the sums that end them, in one pass over memory.

    inputs --read once--> all equations, element by element, in registers --> outputs, written once; sums, added up by blocks

The source is made of templates and numbers alone: no text of a program enters it. Values differ from those of NumPy in their last
bits (`functions`), and sums in their order: blocks of `BLOCK` elements, whose sums are added with compensation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gradwire_core.native import compiler
from gradwire_core.native.nest import Layouts, Nest, Node, NotWrittenError, Region, Store, merged
from gradwire_core.native.signatures import BEHAVED, NUMBERS, READ, RESULTS, SCRATCH, Run, scratch_starts
from gradwire_core.program import Literal, Operand, Program, Var
from gradwire_core.types import Array, Dtype, Shape

BLOCK = 1024
"""So many elements are summed at a time: what is to be summed stays near."""
MOST_COPIED = 2**12
"""So many elements of an operand in another order of memory, or not aligned, are copied; of more, that would take too long."""


def shape_of(cluster: Program) -> Shape | None:
    """Return the space of a program that loops can compute; None where they cannot.

    Every sum must be an output and nothing else, over the whole space, and every other equation be written by a template, or move.
    """
    try:
        return Nest(cluster).shape
    except NotWrittenError:
        return None


# -- the source ----------------------------------------------------------------------------------------------------------------


class _Source:
    """The source of a cluster: the function `run(numbers, arrays, outputs)`, which tells whether some value is not right.

    Attributes:
        compensated: the outputs that are added up from several blocks, for which it takes as much memory again.
    """

    def __init__(self, nest: Nest) -> None:
        self._nest = nest
        self._regions = [merged(region, nest.shape) for region in nest.regions]
        is_single = len(self._regions) == 1
        self._parts = [_Part(region, is_single=is_single) for region in self._regions]
        self.compensated = sorted({store.output for part in self._parts for store in part.compensated})
        self._inner = sorted({store.output for part in self._parts for store in part.inner})

    def text(self) -> str:
        """Return the text."""
        nest = self._nest
        names = [f"n{place}" for place in range(len(nest.numbers))] + [f"a{place}" for place in range(len(nest.arrays))]
        names += [f"o{place}" for place in range(len(nest.cluster.outputs))]
        names += [f"c{place}" for place in self.compensated] + [f"t{place}" for place in self._inner]
        lines = [f"def run({', '.join(names)}):", "    bad = False"]
        lines += [f"    clear(c{place})" for place in self.compensated]
        for part in self._parts:
            lines += part.lines()
        lines += [f"    add_finite(o{place}, c{place})" for place in self.compensated]
        return "\n".join([*lines, "    return bad", ""])

    def signature(self) -> str:
        """Return the types of the operands."""
        nest = self._nest
        operands = [NUMBERS[operand.type.dtype] for operand in nest.numbers]
        operands += [f"{READ[operand.type.dtype]}{operand.type.size}" for operand in nest.arrays]
        operands += [f"{RESULTS[output.type.dtype]}{output.type.size}" for output in nest.cluster.outputs]
        return " ".join([*operands, *[f"{SCRATCH}{size}" for size in self.scratch_sizes()]])

    def scratch_sizes(self) -> list[int]:
        """Return how many numbers each array holds that is written and read again within a call."""
        outputs = self._nest.cluster.outputs
        return [outputs[place].type.size for place in self.compensated] + [BLOCK] * len(self._inner)


class _Part:
    """The loops of a region.

    Attributes:
        inner: the sums along the innermost loop.
        compensated: those that are added up from several blocks.
    """

    def __init__(self, region: Region, *, is_single: bool) -> None:
        self._region = region
        self._last = len(region.bounds) - 1
        start, stop = region.bounds[self._last]
        sums = [store for store in region.stores if store.is_sum]
        self.inner = [store for store in sums if not store.factors[self._last]]
        is_once = is_single and stop - start <= BLOCK
        self._once = [store for store in self.inner if is_once and all(store.factors[: self._last])]
        self.compensated = [store for store in self.inner if store not in self._once]
        self._levels = self._find_levels()

    def _find_levels(self) -> list[int]:
        """Return the innermost loop on which each node depends; -1 where there is none."""
        levels: list[int] = []
        for node in self._region.nodes:
            own = max((loop for loop, factor in enumerate(node.factors) if factor), default=-1)
            levels.append(max([own, *[levels[operand] for operand in node.operands]]))
        return levels

    def lines(self) -> Iterator[str]:
        """Yield the statements."""
        indent = "    "
        yield from _indented(self._statements(-1), indent)
        for loop, (start, stop) in enumerate(self._region.bounds):
            if loop == self._last and self.inner:
                yield from self._blocks(indent, start, stop)
                return
            yield f"{indent}for i{loop} in range(U({start}), U({stop})):"
            indent += "    "
            yield from _indented(self._statements(loop), indent)
        yield from _indented(self._stores(), indent)

    def _blocks(self, indent: str, start: int, stop: int) -> Iterator[str]:
        """Yield the innermost loop, block by block, and what adds up its sums."""
        count = "count"
        if stop - start <= BLOCK:
            count = str(stop - start)
            yield f"{indent}begin = U({start})"
        else:
            yield f"{indent}for begin in range(U({start}), U({stop}), U({BLOCK})):"
            indent += "    "
            yield f"{indent}count = min(U({BLOCK}), U({stop}) - begin)"
        yield f"{indent}for j in range(U({count})):"
        inner = [f"i{self._last} = begin + j", *self._statements(self._last), *self._stores()]
        yield from _indented(inner, indent + "    ")
        for store in self.inner:
            yield from _indented(self._added(store, count), indent)

    def _added(self, store: Store, count: str) -> Iterator[str]:
        output, where = store.output, _place(store)
        if store in self._once:
            yield f"o{output}[{where}] = total(t{output}, {count})"
            return
        yield f"part = total(t{output}, {count})"
        yield f"before = o{output}[{where}]"
        yield "after = before + part"
        yield "rest = after - before"
        yield f"c{output}[{where}] += (before - (after - rest)) + (part - rest)"
        yield f"o{output}[{where}] = after"

    def _statements(self, level: int) -> Iterator[str]:
        """Yield what computes the values that depend on a loop and none further in."""
        for number, node in enumerate(self._region.nodes):
            if self._levels[number] != level or node.kind in ("number", "zero"):
                continue
            if node.kind == "load":
                yield f"v{number} = a{node.place}[{_place(node)}]"
                continue
            assert node.template is not None
            operands = [self._name(operand) for operand in node.operands]
            if node.template.bad:
                yield f"bad |= {node.template.bad.format(*operands)}"
            yield f"v{number} = {node.template.text.format(*operands)}"

    def _stores(self) -> Iterator[str]:
        for store in self._region.stores:
            value = self._name(store.node)
            if not store.is_sum:
                yield f"o{store.output}[{_place(store)}] = {value}"
            elif store in self.inner:
                yield f"t{store.output}[j] = {value}"
            else:
                yield f"o{store.output}[{_place(store)}] += {value}"

    def _name(self, number: int) -> str:
        node = self._region.nodes[number]
        if node.kind == "number":
            return f"n{node.place}"
        return "0.0" if node.kind == "zero" else f"v{number}"


def _indented(lines: Iterator[str] | Sequence[str], indent: str) -> Iterator[str]:
    for line in lines:
        yield indent + line


def _place(item: Node | Store) -> str:
    """Return the text of a place in an array. Unsigned, it is not looked at from the end, and LLVM makes vector loops."""
    parts = [f"i{loop}" if factor == 1 else f"i{loop} * U({factor})" for loop, factor in enumerate(item.factors) if factor]
    if item.base < 0:
        return f"{' + '.join(parts)} - U({-item.base})"
    return " + ".join([*parts, *([f"U({item.base})"] if item.base or not parts else [])])


# -- compiled ------------------------------------------------------------------------------------------------------------------


class Loops:
    """A cluster as loops, and what calls them; threads may share it, and it does not hold the interpreter's lock while it runs.

    Args:
        cluster: a program of which `shape_of` gives a shape.
        compile: returns the function of a source and a signature.
        layouts: as those of `Nest`.

    Attributes:
        source: what was compiled.
        signature: the types of its operands.

    Raises:
        NotWrittenError: `shape_of` gives none.
    """

    def __init__(self, cluster: Program, compile: Callable[[str, str], Run], layouts: Layouts = ()) -> None:
        self.source, self.signature = write(cluster, layouts)
        self._call = _calling(Nest(cluster, layouts), compile(self.source, self.signature), scratch_starts(self.signature)[1])

    def __call__(self, *inputs: Array, out: Sequence[Array | None] | None = None) -> tuple[Array, ...] | None:
        """Return the outputs for the inputs; None where these are left to others.

        `out` is row-major memory for each output, or None; it is taken by those that are row-major themselves.
        That is where an angle is larger than the functions here take, a declared zero is none, or a large operand lies otherwise in
        memory than its layout says.
        """
        return self._call(*inputs, out=out)


def scratch_bytes(nest: Nest) -> int:
    """Return the bytes of memory that loops take beside their outputs, but for one block."""
    outputs = nest.cluster.outputs
    return sum(outputs[place].type.nbytes for place in _Source(nest).compensated)


def write(cluster: Program, layouts: Layouts = ()) -> tuple[str, str]:
    """Return the source of a cluster, and the types of its operands."""
    source = _Source(Nest(cluster, layouts))
    return source.text(), source.signature()


def _calling(nest: Nest, run: Run, scratch: int) -> Callable[..., tuple[Array, ...] | None]:
    """Return what calls loops: one function of templates and numbers, since a call is most of the time of short ones."""
    bound: dict[str, Any] = {"run": run, "row_major": _row_major, "empty": np.empty, "zeros": np.zeros, "bool_": np.bool_}
    names: dict[Operand, str] = {var: f"x{place}" for place, var in enumerate(nest.cluster.inputs)}
    for operand in (*nest.numbers, *nest.arrays):
        if isinstance(operand, Literal):
            names[operand] = f"k{len(bound)}"
            bound[names[operand]] = operand.value.reshape(-1) if operand.type.size > 1 else operand.value
    lines = []
    for operand in nest.arrays:
        name, layout = names[operand], nest.layouts.get(operand, ())
        if layout and layout != tuple(range(len(layout))):
            lines.append(f"{name} = {name}.transpose({layout})")
        if isinstance(operand, Var):
            lines.append(f"if {name}.flags.num & {BEHAVED} != {BEHAVED}:")
            lines += [f"    {name} = row_major({name})", f"    if {name} is None: return None"]
    numbers = [(f"{names[operand]}.item()", operand.type.dtype) for operand in nest.numbers]
    given = [f"float({item})" if dtype is Dtype.BOOL else item for item, dtype in numbers]
    given += [names[operand] for operand in nest.arrays]
    results = []
    for place, output in enumerate(nest.cluster.outputs):
        layout = nest.layout_of(output)
        shape = tuple([output.type.shape[axis] for axis in layout])
        kind = "zeros" if output in nest.sums else "empty"
        axes = tuple([layout.index(axis) for axis in range(len(layout))])
        is_row_major = axes == tuple(range(len(axes)))
        lines.append(f"y{place} = {f'None if out is None else out[{place}]' if is_row_major else None}")
        lines.append(f"if y{place} is None: y{place} = {kind}({shape}{', bool_' if output.type.dtype is Dtype.BOOL else ''})")
        if kind == "zeros" and is_row_major:
            lines.append(f"else: y{place}.fill(0.0)")
        given.append(f"y{place}")
        results.append(f"y{place}" + ("" if is_row_major else f".transpose({axes})"))
    given += [f"empty({scratch})"] if scratch else []
    lines += [f"if run(({', '.join(given)},)): return None", f"return ({', '.join(results)},)"]
    arguments = ", ".join([*[names[var] for var in nest.cluster.inputs], "out=None"])
    call: Callable[..., tuple[Array, ...] | None] = compiler.make_call("\n    ".join([f"def call({arguments}):", *lines]), bound)
    return call


def _row_major(array: Array) -> Array | None:
    """Return an aligned row-major copy of an array; None where that would take too long."""
    return array.copy("C") if array.size <= MOST_COPIED else None
