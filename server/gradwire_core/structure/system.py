"""The uneliminated system of a linear program: every scalar between inputs and outputs is an unknown, every partial an entry.

With columns (values between, inputs) and rows (their equations, outputs) the matrix is [[I - L, -A], [D, C]], and its determinant
is that of the Jacobian of the outputs by the inputs, sign included, since det(I - L) = 1. Its diagonal blocks (`matching`) are
Jacobians again, of fewer scalars: of those whose row alone is in the block (its outputs) by those whose column alone is (its
inputs), through those of which both are. So the determinant of a composition is a product, whatever the composition is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from gradwire_core.builder import Builder
from gradwire_core.ops.contraction import split_subscripts
from gradwire_core.program import Equation, Var
from gradwire_core.structure.arcs import connect, connect_whole
from gradwire_core.structure.links import Link, is_opaque, links_of
from gradwire_core.structure.matching import Blocks, Bottleneck, Network
from gradwire_core.types import Array, TensorType

MOST_ARCS = 5_000_000
"""Larger systems are cut where they are compositions, and not parted where they are none."""

INPUT, INNER, OUTPUT = range(3)
"""How a scalar takes part in a block: its column alone, both, or its row alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Blocks of one form: they have as many scalars of the same values.

    Attributes:
        count: the number of blocks.
        order: the number of rows and columns of the Jacobian of each.
        places: for each value and part that it takes, the flat positions of its scalars, [count, number].
    """

    count: int
    order: int
    places: dict[tuple[Var, int], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Blocks of one entry, those of one result by one operand.

    Attributes:
        result: the result.
        operand: the operand.
        rows: flat positions in the result.
        columns: as many flat positions in the operand.
    """

    result: Var
    operand: Var
    rows: Array
    columns: Array


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """The block triangular form of a system.

    Attributes:
        sign: of the permutations of rows and columns, and of the equations' entries: the determinant is this times those
            of the blocks.
        pairs: the blocks of one entry.
        groups: the other blocks.
    """

    sign: int
    pairs: list[Pairs]
    groups: list[Group]


class System:
    """A linear program as a system.

    Args:
        builder: holds the residuals.
        equations: the linear equations, in order.
        inputs: what they are linear in.
        outputs: their results that are asked for; None for zero, with its type.

    Attributes:
        values: the inputs, the results of all equations, and the outputs, in order.
        outputs: the outputs, as values of their own, equal to what they were given as.
        links: for each value, the partials by those before it; None for one that nothing is known of.
    """

    def __init__(
        self,
        builder: Builder,
        equations: Sequence[Equation],
        inputs: Sequence[Var],
        outputs: Sequence[tuple[Var | None, TensorType]],
    ) -> None:
        self.builder = builder
        self.equations = equations = _in_pairs(equations, set(inputs))
        self.inputs = list(inputs)
        self.outputs = [Var(type) for _, type in outputs]
        self.sources = dict(zip(self.outputs, [var for var, _ in outputs], strict=True))
        self.values = [*self.inputs, *[var for equation in equations for var in equation.results], *self.outputs]
        sizes = np.array([var.type.size for var in self.values], np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self._numbers = {var: number for number, var in enumerate(self.values)}
        self.links: dict[Var, list[Link]] = {}
        self._equations = {var: equation for equation in equations for var in equation.results}

    def __contains__(self, var: object) -> bool:
        """Whether something is one of the values."""
        return var in self._numbers

    def equation(self, var: Var) -> Equation | None:
        """Return the equation of a value; None for inputs and outputs."""
        return self._equations.get(var)

    @property
    def size(self) -> int:
        """The number of scalars."""
        return int(self._starts[-1])

    def scalars(self, var: Var) -> Array:
        """Return the numbers of the scalars of a value."""
        number = self._numbers[var]
        return np.arange(self._starts[number], self._starts[number + 1])

    def form(self) -> Form | Bottleneck | None:
        """Return the block triangular form, or why the determinant is 0 for every input; None for systems too large."""
        self._find_links()
        copies = self._copies()
        network = self._network() if copies is None else self._one_of_each()
        if network is None:
            return None
        found = network.solve()
        if isinstance(found, Bottleneck):
            return found
        if copies is not None:
            every = np.arange(copies)
            rows, columns = [(labels[:, None] * copies + every).ravel() for labels in (found.rows, found.columns)]
            found = Blocks(rows, columns, found.count * copies)
        return self._parted(found)

    def halves(self) -> tuple[System, System] | None:
        """Return two systems of which this one is the composition, of about as many scalars; None where there are none.

        They meet where as many scalars are needed from there on as there are inputs: the determinant is the product of theirs.
        """
        last: dict[object, int] = {}
        for number, equation in enumerate(self.equations):
            last.update(dict.fromkeys(equation.operands, number))
        last.update(dict.fromkeys(self.sources.values(), len(self.equations)))
        width = sum(var.type.size for var in self.inputs)
        ends: list[list[Var]] = [[] for _ in range(len(self.equations) + 1)]
        needed = done = 0
        for var in self.inputs:
            if var in last:
                needed += var.type.size
                ends[last[var]].append(var)
        found: tuple[int, int] | None = None
        for number, equation in enumerate(self.equations[:-1]):
            for var in equation.results:
                done += var.type.size
                if var in last:
                    needed += var.type.size
                    ends[last[var]].append(var)
            needed -= sum(var.type.size for var in ends[number])
            if needed == width:
                found = min((abs(2 * done - self.size), number + 1), found or (self.size, 0))
        if found is None or found[1] == 0:
            return None
        first, second = self.equations[: found[1]], self.equations[found[1] :]
        known = [*self.inputs, *[var for equation in first for var in equation.results]]
        middle = [var for var in known if last.get(var, -1) >= found[1]]
        outputs = [(self.sources[var], var.type) for var in self.outputs]
        return (
            System(self.builder, first, self.inputs, [(var, var.type) for var in middle]),
            System(self.builder, second, middle, outputs),
        )

    def pieces(self) -> list[Group] | None:
        """Return parts of the system that share no scalar, those of one form together; None for systems too large.

        The outputs of a part need not be as many as its inputs. Parts without inputs are left out.
        """
        self._find_links()
        network = self._network()
        if network is None:
            return None
        found = network.pieces()
        every, first, last = np.arange(self.size), network.inputs.size, self.size - network.outputs.size
        orders = np.bincount(found.columns[:first], minlength=found.count)
        return self._groups(found, orders > 0, [every[:first], every[first:last], every[last:]])

    def whole(self) -> Group:
        """Return all scalars as one block."""
        kinds = {**dict.fromkeys(self.values, INNER), **dict.fromkeys(self.inputs, INPUT), **dict.fromkeys(self.outputs, OUTPUT)}
        places = {(var, kind): np.arange(var.type.size)[None] for var, kind in kinds.items()}
        return Group(1, sum(var.type.size for var in self.inputs), places)

    def is_local(self, group: Group, most: int) -> bool:
        """Whether no scalar of a group has more than so many entries by one link."""
        values = {var for var, _ in group.places}
        for var, kind in group.places:
            if kind == INPUT:
                continue
            if var not in self.links:
                return False
            for link in self.links[var]:
                if link.operand in values and not link.is_sparse(most):
                    return False
        return True

    # -- arcs ------------------------------------------------------------------------------------------------------------------

    def _find_links(self) -> None:
        for equation in self.equations:
            if not is_opaque(equation):
                self.links[equation.results[0]] = [
                    links_of(self.builder, equation, position)
                    for position, item in enumerate(equation.operands)
                    if isinstance(item, Var) and item in self._numbers
                ]
        for var, source in self.sources.items():
            every = np.arange(var.type.size)[:, None]
            self.links[var] = [] if source is None else [Link(var, source, every, every)]

    def _copies(self) -> int | None:
        """Return of how many equal systems this one consists, if every link is elementwise."""
        sizes = {var.type.size for var in self.values}
        if len(sizes) != 1 or any(var not in self.links for var in self.values[len(self.inputs) :]):
            return None
        is_elementwise = all(link.is_elementwise for links in self.links.values() for link in links)
        return sizes.pop() if is_elementwise else None

    def _one_of_each(self) -> Network:
        """Return the network of the first elements of all values."""
        count, ends = len(self.values), len(self.outputs)
        network = Network(count, np.arange(len(self.inputs)), np.arange(count - ends, count))
        for links in self.links.values():
            for link in links:
                tail, head = np.array([self._numbers[link.operand]]), np.array([self._numbers[link.result]])
                network.connect(network.column(tail), network.row(head))
        return network

    def _network(self) -> Network | None:
        first = int(self._starts[len(self.inputs)])
        last = int(self._starts[len(self.values) - len(self.outputs)])
        network = Network(self.size, np.arange(first), np.arange(last, self.size))
        for equation in self.equations:
            if network.arc_count + self.size > MOST_ARCS:
                return None
            if is_opaque(equation):
                operands = [item if isinstance(item, Var) and item in self._numbers else None for item in equation.operands]
                columns = [None if item is None else network.column(self.scalars(item)) for item in operands]
                connect_whole(network, equation, columns, [network.row(self.scalars(var)) for var in equation.results])
                continue
            for link in self.links[equation.results[0]]:
                self._connect(network, link)
        for var in self.outputs:
            for link in self.links[var]:
                self._connect(network, link)
        return network if network.arc_count + self.size <= MOST_ARCS else None

    def _connect(self, network: Network, link: Link) -> None:
        rows = network.row(link.rows + self._starts[self._numbers[link.result]])
        columns = network.column(link.columns + self._starts[self._numbers[link.operand]])
        connect(network, link, columns, rows)

    # -- blocks ----------------------------------------------------------------------------------------------------------------

    def _parted(self, blocks: Blocks) -> Form:
        first = int(self._starts[len(self.inputs)])
        last = int(self._starts[len(self.values) - len(self.outputs)])
        every = np.arange(self.size)
        is_inner = (every >= first) & (every < last) & (blocks.rows == blocks.columns)
        ins, outs = every[(every < last) & ~is_inner], every[(every >= first) & ~is_inner]
        ins = ins[np.argsort(blocks.columns[ins], kind="stable")]
        outs = outs[np.argsort(blocks.rows[outs], kind="stable")]
        assert np.array_equal(blocks.columns[ins], blocks.rows[outs])
        equations = int(np.count_nonzero(outs < last))
        # An output stands for the input of the same number: the last rows beside the last columns.
        sign = parity(np.where(outs >= last, outs - last, outs), ins) * (-1 if equations % 2 else 1)
        inner = every[is_inner]
        orders = np.bincount(blocks.columns[ins], minlength=blocks.count)
        inners = np.bincount(blocks.rows[inner], minlength=blocks.count)
        is_single = (orders == 1) & (inners == 0)
        chosen = is_single[blocks.columns[ins]]
        pairs, several = self._pairs(outs[chosen], ins[chosen])
        is_single[blocks.rows[several]] = False
        groups = self._groups(blocks, (orders > 0) & ~is_single, [ins, inner, outs])
        return Form(sign, pairs, groups)

    def _pairs(self, rows: Array, columns: Array) -> tuple[list[Pairs], Array]:
        """Return blocks of one entry by result and operand, and the rows of those that several links add to."""
        results, operands = self._values_of(rows), self._values_of(columns)
        keys = results * len(self.values) + operands
        order = np.argsort(keys, kind="stable")
        found, several = [], [np.empty(0, np.int64)]
        for part in _runs(keys[order]):
            where = order[part]
            result, operand = self.values[results[where[0]]], self.values[operands[where[0]]]
            links = [link for link in self.links.get(result, ()) if link.operand is operand]
            if len(links) != 1 or links[0].weights is None:
                several.append(rows[where])
                continue
            local = [scalars[where] - self._starts[self._numbers[var]] for scalars, var in ((rows, result), (columns, operand))]
            found.append(Pairs(result, operand, *local))
        return found, np.concatenate(several)

    def _values_of(self, scalars: Array) -> Array:
        found: Array = np.searchsorted(self._starts, scalars, side="right") - 1
        return found

    def _groups(self, blocks: Blocks, wanted: Array, parts: list[Array]) -> list[Group]:
        """Return blocks, those of one form together, from the scalars of each kind."""
        if not wanted.any():
            return []
        labels, values, kinds, places = [], [], [], []
        for kind, scalars in enumerate(parts):
            own = (blocks.columns if kind == INPUT else blocks.rows)[scalars]
            kept = wanted[own]
            labels.append(own[kept])
            values.append(self._values_of(scalars[kept]))
            kinds.append(np.full(values[-1].size, kind))
            places.append(scalars[kept])
        label, value, kind_, place = map(np.concatenate, (labels, values, kinds, places))
        role = value * 3 + kind_
        # Blocks have one form where the sums of a random number for each of their scalars' roles agree.
        numbers = np.random.default_rng(0).integers(0, 2**50, 3 * len(self.values))
        forms = np.zeros(blocks.count, np.int64)
        np.add.at(forms, label, numbers[role])
        order = np.lexsort((place, label, role, forms[label]))
        label, role, place = label[order], role[order], place[order]
        groups = []
        for part in _runs(forms[label]):
            runs = _runs(role[part])
            count = 1 + int(np.count_nonzero(np.diff(label[part][runs[0]])))
            found = {}
            for run in runs:
                where = np.arange(part.start, part.stop)[run]
                var = self.values[role[where[0]] // 3]
                local = place[where] - self._starts[role[where[0]] // 3]
                found[var, int(role[where[0]] % 3)] = local.reshape((count, -1))
            total = sum(array.shape[1] for (_, kind), array in found.items() if kind == INPUT)
            groups.append(Group(count, total, found))
        return groups


def _runs(sorted_: Array) -> list[slice]:
    """Return the slices of equal neighbours."""
    if sorted_.size == 0:
        return []
    borders = [0, *(1 + np.flatnonzero(sorted_[1:] != sorted_[:-1])).tolist(), sorted_.size]
    return [slice(start, stop) for start, stop in pairwise(borders)]


def parity(ones: Array, others: Array) -> int:
    """Return the sign of the permutation that takes each of some numbers to the other at its place."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    numbers, flat = np.unique(np.concatenate([ones, others]), return_inverse=True)
    tails, heads = flat[: ones.size], flat[ones.size :]
    graph = csr_array((np.ones(ones.size, np.int8), (tails, heads)), shape=(numbers.size, numbers.size))
    cycles: Any = connected_components(graph, directed=False, return_labels=False) if ones.size else 0
    return -1 if (ones.size - cycles) % 2 else 1


def _in_pairs(equations: Sequence[Equation], linear: set[Var]) -> list[Equation]:
    """Return the same equations with contractions of many operands as one contraction after the other.

    So `A X B` is two steps, each of which is one small matrix for every row or column.
    """
    known: set[object] = {*linear}
    found: list[Equation] = []
    for equation in equations:
        known.update(equation.results)
        chosen = [place for place, item in enumerate(equation.operands) if item in known]
        is_long = equation.primitive.name == "einsum" and len(equation.operands) > 2 and len(chosen) == 1
        found += _parted_contraction(equation, chosen[0]) if is_long else [equation]
    return found


def _parted_contraction(equation: Equation, place: int) -> list[Equation]:
    """Return a contraction as steps, in each of which the operand at a place meets one other."""
    subscripts: Any = equation.params["subscripts"]
    inputs, output = split_subscripts(subscripts)
    sizes: dict[str, int] = {}
    for names, item in zip(inputs, equation.operands, strict=True):
        sizes.update(zip(names, item.type.shape, strict=True))
    rest = [index for index in range(len(inputs)) if index != place]
    current, names, steps = equation.operands[place], inputs[place], []
    while rest:
        index = next((index for index in rest if set(inputs[index]) & set(names)), rest[0])
        rest.remove(index)
        needed = set(output).union(*[inputs[item] for item in rest])
        kept = "".join(name for name in dict.fromkeys(names + inputs[index]) if name in needed) if rest else output
        result = Var(current.type.with_shape(tuple(sizes[name] for name in kept))) if rest else equation.results[0]
        params = {"subscripts": f"{names},{inputs[index]}->{kept}"}
        steps.append(Equation(equation.primitive, (current, equation.operands[index]), params, (result,)))
        current, names = result, kept
    return steps
