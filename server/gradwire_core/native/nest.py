"""From a program over one index space to nested loops over it: which elements each value needs, and where those stand in memory.

    the value of an output at (i, j)  <--  operands at affine indices (2i + 1, 0, j - 3)  <--  places in arrays, as linear forms

Slices, pads, concatenations, broadcasts and reshapes by axes of length 1 only change indices, so nothing of them is computed. Where
an index is inside a pad for some elements and outside for others, the space is cut there, and each part, a `Region`, has loops of
its own. Every statement stands in the outermost loop that tells its value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gradwire_core.native.templates import TEMPLATES, Template, find_template
from gradwire_core.program import Equation, Literal, Operand, Program
from gradwire_core.types import Dtype, Shape

MOST_REGIONS = 24
"""So many parts a space is cut into at most: each has code of its own."""
MOST_NODES = 1500
"""So many values all parts compute at most."""


class Index(NamedTuple):
    """The index along an axis: `offset + step * i`, for the index i of a loop; no loop, no i."""

    loop: int
    step: int
    offset: int


FIRST = Index(-1, 0, 0)
Access = tuple[Index, ...]
Layout = tuple[int, ...]
Layouts = tuple[Layout, ...]


class Node(NamedTuple):
    """A value for one element.

    Attributes:
        kind: "load", "number", "zero" or "compute".
        place: of the array or number; for what is computed, none.
        base: where in the array, for the first index of each loop.
        factors: by how much further with each index.
        template: how it is computed.
        operands: the numbers of nodes.
        primitive: whose template it is.
    """

    kind: str
    place: int = -1
    base: int = 0
    factors: tuple[int, ...] = ()
    template: Template | None = None
    operands: tuple[int, ...] = ()
    primitive: str = ""


class Store(NamedTuple):
    """Where an output gets a value: as an element, or added up.

    Attributes:
        output: its place.
        node: the value.
        base: where in the output, for the first index of each loop.
        factors: by how much further with each index; 0 for one that is summed over.
        is_sum: whether it is added up.
    """

    output: int
    node: int
    base: int
    factors: tuple[int, ...]
    is_sum: bool


@dataclass(slots=True)
class Region:
    """A part of the space with all it computes.

    Attributes:
        bounds: the first index and the one behind the last, of each loop.
        nodes: each behind its operands.
        stores: what is written.
        is_whole: whether it is all of the space.
    """

    bounds: list[tuple[int, int]]
    nodes: list[Node] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)
    is_whole: bool = True

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(stop - start for start, stop in self.bounds)


class _StraddlingError(Exception):
    """A region lies on both sides of an edge; it is cut before an index of a loop."""

    def __init__(self, loop: int, at: int) -> None:
        super().__init__()
        self.loop, self.at = loop, at


class NotWrittenError(Exception):
    """A program has no loops here."""


# -- what an equation does to indices ------------------------------------------------------------------------------------------


def _broadcast(equation: Equation, access: Access, _: Region) -> tuple[Operand, Access]:
    (operand,) = equation.operands
    own = access[len(access) - operand.type.ndim :]
    return operand, tuple([FIRST if n == 1 else index for n, index in zip(operand.type.shape, own, strict=True)])


def _reshape(equation: Equation, access: Access, _: Region) -> tuple[Operand, Access]:
    (operand,) = equation.operands
    kept = iter([index for n, index in zip(equation.results[0].type.shape, access, strict=True) if n != 1])
    return operand, tuple([FIRST if n == 1 else next(kept) for n in operand.type.shape])


def _slice(equation: Equation, access: Access, _: Region) -> tuple[Operand, Access]:
    starts, steps = _integers(equation, "starts"), _integers(equation, "steps")
    moved = [Index(i.loop, i.step * step, start + i.offset * step) for i, start, step in zip(access, starts, steps, strict=True)]
    return equation.operands[0], tuple(moved)


def _pad(equation: Equation, access: Access, region: Region) -> tuple[Operand | None, Access]:
    (operand,) = equation.operands
    moved = []
    for index, low, length in zip(access, _integers(equation, "low"), operand.type.shape, strict=True):
        if not (_is_beyond(index, low, region) and not _is_beyond(index, low + length, region)):
            return None, ()
        moved.append(index._replace(offset=index.offset - low))
    return operand, tuple(moved)


def _concatenate(equation: Equation, access: Access, region: Region) -> tuple[Operand, Access]:
    axis = equation.params["axis"]
    assert isinstance(axis, int)
    start = 0
    for operand in equation.operands[:-1]:
        if not _is_beyond(access[axis], start + operand.type.shape[axis], region):
            return operand, _shifted(access, axis, start)
        start += operand.type.shape[axis]
    return equation.operands[-1], _shifted(access, axis, start)


def _shifted(access: Access, axis: int, start: int) -> Access:
    index = access[axis]
    return (*access[:axis], index._replace(offset=index.offset - start), *access[axis + 1 :])


def _is_beyond(index: Index, edge: int, region: Region) -> bool:
    """Whether an index is not below an edge, for all of a region; raises where that differs."""
    if index.loop < 0:
        return index.offset >= edge
    start, stop = region.bounds[index.loop]
    first = -((index.offset - edge) // index.step)  # the first index of the loop that is
    if start < first < stop:
        raise _StraddlingError(index.loop, first)
    return first <= start


def _integers(equation: Equation, name: str) -> tuple[int, ...]:
    found = equation.params[name]
    assert isinstance(found, tuple)
    return found  # type: ignore[return-value]  # those of windows are integers


MOVES: Mapping[str, Callable[[Equation, Access, Region], tuple[Operand | None, Access]]] = {
    "broadcast_to": _broadcast,
    "concatenate": _concatenate,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
}
"""The operand, and its indices, that an equation moves; no operand: zero."""


def is_move(equation: Equation) -> bool:
    """Whether an equation only changes indices."""
    name, result = equation.primitive.name, equation.results[0]
    if name not in MOVES or result.type.dtype not in (Dtype.FLOAT64, Dtype.BOOL) or not result.type.size:
        return False
    if name == "pad":
        return result.type.dtype is Dtype.FLOAT64 and not any(_integers(equation, "interior"))
    if name == "slice":
        return all(step > 0 for step in _integers(equation, "steps"))
    if name == "reshape":
        (operand,) = equation.operands
        return [n for n in operand.type.shape if n != 1] == [n for n in result.type.shape if n != 1]
    return True


# -- sums ----------------------------------------------------------------------------------------------------------------------


class Sum(NamedTuple):
    """What an equation adds up: all elements of an operand along some axes, times those of a factor that has fewer axes.

    Attributes:
        operand: has all axes.
        axes: along which it is added up.
        factor: what it is multiplied by first; None: by nothing.
        factor_axes: of the operand, that the factor has.
    """

    operand: Operand
    axes: tuple[int, ...]
    factor: Operand | None = None
    factor_axes: tuple[int, ...] = ()


def sum_of(equation: Equation) -> Sum | None:
    """Return what an equation adds up; None where it is no sum, and no product of a matrix and a vector either."""
    if equation.results[0].type.dtype is not Dtype.FLOAT64:
        return None
    if equation.primitive.name == "sum":
        return Sum(equation.operands[0], _integers(equation, "axes"))
    if equation.primitive.name != "einsum" or len(equation.operands) != 2:
        return None
    subscripts = equation.params["subscripts"]
    assert isinstance(subscripts, str)
    left, output = subscripts.split("->")
    groups = left.split(",")
    for place, (whole, part) in enumerate((groups, groups[::-1])):
        kept = [label for label in whole if label in output]
        if set(part) < set(whole) > set(output) and "".join(kept) == output:
            axes = tuple([axis for axis, label in enumerate(whole) if label not in output])
            return Sum(equation.operands[place], axes, equation.operands[1 - place], tuple([whole.index(label) for label in part]))
    return None


# -- regions -------------------------------------------------------------------------------------------------------------------


class Nest:
    """The loops of a cluster.

    Args:
        cluster: a program.
        layouts: for the space, then for each input, its axes from the outermost in memory to the innermost; none: row-major. Loops,
            and outputs in memory, are in the order of the space.

    Attributes:
        shape: the lengths of the loops.
        order: the axis of each loop.
        layouts: those of the inputs that are not row-major.
        arrays: what is read by elements.
        numbers: what is read once.
        sums: what is added up, by the results.
        regions: the parts of the space.

    Raises:
        NotWrittenError: some equation has no template, or it would take too many regions.
    """

    def __init__(self, cluster: Program, layouts: Layouts = ()) -> None:
        self.cluster = cluster
        self._makers: dict[Operand, Equation] = {result: item for item in cluster.equations for result in item.results}
        self.places: dict[Operand, int] = {result: place for place, result in enumerate(self._makers)}
        self.sums: dict[Operand, Sum] = {}
        for result, equation in self._makers.items():
            found = sum_of(equation)
            if found is not None:
                self.sums[result] = found
        shape = self._find_shape()
        self.order = layouts[0] if layouts else tuple(range(len(shape)))
        self.shape = tuple([shape[axis] for axis in self.order])
        self.layouts: dict[Operand, Layout] = dict(zip(cluster.inputs, layouts[1:], strict=bool(layouts)))
        self.arrays: dict[Operand, int] = {}
        self.numbers: dict[Operand, int] = {}
        self.regions = self._find_regions()

    def _find_shape(self) -> Shape:
        shapes = set()
        for output in self.cluster.outputs:
            if output not in self._makers:
                raise NotWrittenError
            source = self.sums[output].operand if output in self.sums else output
            if source.type.dtype not in (Dtype.FLOAT64, *([Dtype.BOOL] if output not in self.sums else [])):
                raise NotWrittenError
            shapes.add(source.type.shape)
        if len(shapes) != 1 or not math.prod(next(iter(shapes))):
            raise NotWrittenError
        return shapes.pop()

    def _find_regions(self) -> list[Region]:
        pending = [[(0, length) for length in self.shape]]
        found: list[Region] = []
        while pending:
            bounds = pending.pop()
            region = Region(bounds, is_whole=not (pending or found))
            try:
                _Reading(self, region).read()
            except _StraddlingError as edge:
                start, stop = bounds[edge.loop]
                parts = ((edge.at, stop), (start, edge.at))
                pending += [[*bounds[: edge.loop], part, *bounds[edge.loop + 1 :]] for part in parts]
                if len(pending) + len(found) > MOST_REGIONS:
                    raise NotWrittenError from None
                continue
            found.append(region)
            if sum(len(item.nodes) for item in found) > MOST_NODES:
                raise NotWrittenError
        return found

    def layout_of(self, output: Operand) -> Layout:
        """Return the axes of an output from the outermost in memory to the innermost."""
        found = self.sums.get(output)
        if found is None:
            return self.order
        kept = [axis for axis in range(len(self.order)) if axis not in found.axes]
        return tuple([kept.index(axis) for axis in self.order if axis in kept])

    def maker(self, operand: Operand) -> Equation | None:
        """Return the equation that makes a value; None for inputs and literals."""
        return self._makers.get(operand)

    def template_of(self, equation: Equation) -> Template | None:
        """Return how an elementwise equation is written; None where it is not."""
        return find_template(equation, exponent_of(equation, self._makers))


def exponent_of(equation: Equation, makers: Mapping[Operand, Equation]) -> float | None:
    """Return the exponent of a power where it is a constant, given the equations that make values."""
    if equation.primitive.name != "power":
        return None
    operand = equation.operands[1]
    while operand in makers and makers[operand].primitive.name == "broadcast_to":
        operand = makers[operand].operands[0]
    return float(operand.value.reshape(-1)[0]) if isinstance(operand, Literal) and operand.type.size == 1 else None


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[place + 1 :]) for place in range(len(shape))]


class _Reading:
    """What a region computes: equal values once."""

    def __init__(self, nest: Nest, region: Region) -> None:
        self._nest = nest
        self._region = region
        self._numbers: dict[Node, int] = {}
        self._known: dict[tuple[Operand, Access], int] = {}
        self._places: list[float] = []

    def read(self) -> None:
        """Fill the region."""
        nest = self._nest
        every: Access = tuple([Index(nest.order.index(axis), 1, 0) for axis in range(len(nest.shape))])
        for place, output in enumerate(nest.cluster.outputs):
            found = nest.sums.get(output)
            node = self._resolve(output, every) if found is None else self._resolve_sum(found, every)
            kept = [found is None or axis not in found.axes for axis in nest.order]
            lengths = [length for length, is_kept in zip(nest.shape, kept, strict=True) if is_kept]
            strides = iter(_strides(lengths))
            factors = tuple([next(strides) if is_kept else 0 for is_kept in kept])
            self._region.stores.append(Store(place, node, 0, factors, found is not None))
        self._sort()

    def _sort(self) -> None:
        """Bring the nodes into the order of the program, and what is read to where it is needed first."""
        region, places = self._region, self._places
        for number, node in enumerate(region.nodes):
            for operand in node.operands:
                if region.nodes[operand].template is None:
                    places[operand] = min(places[operand], places[number] - 0.5)
        order = sorted(range(len(places)), key=lambda number: (places[number], number))
        moved = {old: new for new, old in enumerate(order)}
        region.nodes = [
            region.nodes[old]._replace(operands=tuple([moved[operand] for operand in region.nodes[old].operands])) for old in order
        ]
        region.stores = [store._replace(node=moved[store.node]) for store in region.stores]

    def _resolve_sum(self, found: Sum, every: Access) -> int:
        """Return the node of what is added up."""
        node = self._resolve(found.operand, every)
        if found.factor is None:
            return node
        factor = self._resolve(found.factor, tuple([every[axis] for axis in found.factor_axes]))
        template = TEMPLATES["multiply"]
        return self._number(
            Node("compute", template=template, operands=(node, factor), primitive="multiply"), len(self._nest.places)
        )

    def _resolve(self, operand: Operand, access: Access) -> int:
        """Return the node of an operand, at the indices of an access."""
        pending = [(operand, access)]
        while pending:
            item = pending[-1]
            if item not in self._known:
                needed, make = self._steps(*item)
                missing = [one for one in needed if one not in self._known]
                if missing:
                    pending += missing
                    continue
                self._known[item] = make([self._known[one] for one in needed])
            pending.pop()
        return self._known[operand, access]

    def _steps(self, operand: Operand, access: Access) -> tuple[list[tuple[Operand, Access]], Callable[[Sequence[int]], int]]:
        """Return what a value needs, and what makes its node of that."""
        nest = self._nest
        equation = nest.maker(operand)
        if equation is None:
            return [], lambda _: self._read(operand, access)
        name = equation.primitive.name
        if name in MOVES:
            if not is_move(equation):
                raise NotWrittenError
            source, moved = MOVES[name](equation, access, self._region)
            if source is None:
                return [], lambda _: self._number(Node("zero"))
            return [(source, moved)], lambda found: found[0]
        template = nest.template_of(equation)
        if template is None:
            raise NotWrittenError
        needed = [(item, access[len(access) - item.type.ndim :]) for item in equation.operands]
        place = nest.places[operand]

        def make(found: Sequence[int]) -> int:
            return self._number(Node("compute", template=template, operands=tuple(found), primitive=name), place)

        return needed, make

    def _read(self, operand: Operand, access: Access) -> int:
        nest, type = self._nest, operand.type
        if type.dtype not in (Dtype.FLOAT64, Dtype.BOOL):
            raise NotWrittenError
        if type.size == 1:
            return self._number(Node("number", nest.numbers.setdefault(operand, len(nest.numbers))))
        base, factors = 0, [0] * len(nest.shape)
        layout = nest.layouts.get(operand, tuple(range(type.ndim)))
        strides = dict(zip(layout, _strides([type.shape[axis] for axis in layout]), strict=True))
        for index, stride in zip(access, [strides[axis] for axis in range(type.ndim)], strict=True):
            base += index.offset * stride
            if index.loop >= 0:
                factors[index.loop] += index.step * stride
        place = nest.arrays.setdefault(operand, len(nest.arrays))
        return self._number(Node("load", place, base, tuple(factors)))

    def _number(self, node: Node, place: float = math.inf) -> int:
        """Return the number of a node, which the equation at a place of the program makes."""
        found = self._numbers.get(node)
        if found is None:
            found = self._numbers[node] = len(self._region.nodes)
            self._region.nodes.append(node)
            self._places.append(place)
        self._places[found] = min(self._places[found], place)
        return found


# -- loops that are one --------------------------------------------------------------------------------------------------------


def merged(region: Region, shape: Shape) -> Region:
    """Return a region in which neighbouring loops that nothing tells apart are one, and loops of one step are none."""
    bounds, lengths = list(region.bounds), list(shape)
    items: list[Node | Store] = [*region.nodes, *region.stores]
    rows = [[item.base, *item.factors] for item in items]
    placed = [row for row in rows if len(row) > 1]
    for loop in range(len(bounds) - 1, -1, -1):
        start, stop = bounds[loop]
        if stop - start == 1:
            for row in placed:
                row[0] += row.pop(loop + 1) * start
            del bounds[loop], lengths[loop]
        elif loop + 1 < len(bounds) and bounds[loop + 1] == (0, lengths[loop + 1]):
            length = lengths[loop + 1]
            if all(row[loop + 1] == row[loop + 2] * length for row in placed):
                for row in placed:
                    del row[loop + 1]
                bounds[loop : loop + 2] = [(start * length, stop * length)]
                lengths[loop : loop + 2] = [lengths[loop] * length]
    if not bounds:
        bounds = [(0, 1)]
        for row in placed:
            row.append(0)
    nodes = [node._replace(base=row[0], factors=tuple(row[1:])) for node, row in zip(region.nodes, rows, strict=False)]
    behind = rows[len(nodes) :]
    stores = [store._replace(base=row[0], factors=tuple(row[1:])) for store, row in zip(region.stores, behind, strict=True)]
    return Region(bounds, nodes, stores, region.is_whole)
