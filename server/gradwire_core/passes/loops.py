"""Loops over the same steps become one where the second takes nothing of the first but what that stacks.

So a loop and its tangents run together, and what a step of one hands to a step of the other is never stacked: memory for one step
in place of all. What nothing takes of that which a loop stacks is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradwire_core.builder import Builder, Value
from gradwire_core.ops.control import scan_primitive
from gradwire_core.program import Equation, Operand, Params, Program, Var

MOST_LOOPS = 512
"""Programs of more loops are left as they are."""


def merge_loops(program: Program) -> Program:
    """Return the program with loops merged; itself where there is nothing to do."""
    if not 0 < sum(equation.primitive is scan_primitive for equation in program.equations) <= MOST_LOOPS:
        return program
    uses = Counter(operand for equation in program.equations for operand in equation.operands)
    uses.update(program.outputs)
    groups = _find_groups(program)
    changed = [group for group in groups if len(group.loops) > 1 or any(not uses[var] for var in _stacked(group.loops[0]))]
    if not changed:
        return program
    merged: dict[Equation, Equation] = {}
    for group in changed:
        whole = _merge(group.loops, uses)
        merged.update(dict.fromkeys(group.loops, whole))
    return Program(program.inputs, ordered(program, merged), program.outputs)


# -- which loops become one ----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Group:
    """Loops that become one.

    Attributes:
        loops: in their order.
        needs: the bits of the groups that they depend on, themselves among them.
    """

    loops: list[Equation] = field(default_factory=list)
    needs: int = 0


def _find_groups(program: Program) -> list[_Group]:
    """Put each loop in the group of one that stacks operands of it, where nothing else of that group leads to it."""
    groups: list[_Group] = []
    of_result: dict[Operand, int] = {}  # the group that stacks a value
    needs: dict[Operand, int] = {}  # the bits of the groups that a value depends on
    for equation in program.equations:
        total = 0
        for operand in equation.operands:
            total |= needs.get(operand, 0)
        if equation.primitive is scan_primitive:
            number = _group_for(equation, groups, of_result, needs)
            if number is None:
                number = len(groups)
                groups.append(_Group())
            group = groups[number]
            group.loops.append(equation)
            group.needs |= total | 1 << number
            total = group.needs
            of_result.update(dict.fromkeys(_stacked(equation), number))
        if total:
            needs.update(dict.fromkeys(equation.results, total))
    return groups


def _group_for(
    equation: Equation, groups: Sequence[_Group], of_result: dict[Operand, int], needs: dict[Operand, int]
) -> int | None:
    xs = equation.operands[_first_x(equation) :]
    for number in dict.fromkeys(of_result[operand] for operand in xs if operand in of_result):
        first = groups[number].loops[0]
        is_alike = all(first.params[name] == equation.params[name] for name in ("length", "is_reversed"))
        others = list(equation.operands[: _first_x(equation)])
        others += [operand for operand in xs if of_result.get(operand) != number]
        if is_alike and not any(_reaches(needs.get(operand, 0), number, groups) for operand in others):
            return number
    return None


def _reaches(bits: int, number: int, groups: Sequence[_Group]) -> bool:
    """Whether a value that depends on some groups depends on a given one, through what these depend on by now."""
    seen, pending = 0, bits
    while pending:
        lowest = pending & -pending
        seen |= lowest
        pending = (pending | groups[lowest.bit_length() - 1].needs) & ~seen
    return bool(seen >> number & 1)


def _first_x(equation: Equation) -> int:
    const_count, carry_count = _counts(equation)
    return const_count + carry_count


def _counts(equation: Equation) -> tuple[int, int]:
    const_count, carry_count = equation.params["const_count"], equation.params["carry_count"]
    assert isinstance(const_count, int)
    assert isinstance(carry_count, int)
    return const_count, carry_count


def _stacked(equation: Equation) -> tuple[Var, ...]:
    return equation.results[_counts(equation)[1] :]


# -- the loop of a group -------------------------------------------------------------------------------------------------------


def _merge(loops: Sequence[Equation], uses: Counter[Operand]) -> Equation:
    """Return one loop with all results of loops that anything else takes."""
    inner = {var for equation in loops for var in _stacked(equation)}
    within = Counter(operand for equation in loops for operand in equation.operands[_first_x(equation) :] if operand in inner)
    builder = Builder()
    constants: dict[Operand, Value] = {}
    xs: dict[Operand, Value] = {}
    carries: list[tuple[Operand, Value]] = []
    steps: dict[Operand, Value] = {}
    nexts: list[Value] = []
    results: list[Var] = []
    kept: list[tuple[Var, Value]] = []
    for equation in loops:
        body = equation.params["body"]
        assert isinstance(body, Program)
        const_count, carry_count = _counts(equation)
        given = []
        for place, (operand, var) in enumerate(zip(equation.operands, body.inputs, strict=True)):
            if const_count <= place < const_count + carry_count:
                carries.append((operand, builder.free(var.type)))
                given.append(carries[-1][1])
            elif operand in steps:
                given.append(steps[operand])
            else:
                known = constants if place < const_count else xs
                given.append(known[operand] if operand in known else known.setdefault(operand, builder.free(var.type)))
        found = builder.inline(body, given)
        nexts += found[:carry_count]
        results += equation.results[:carry_count]
        for var, value in zip(_stacked(equation), found[carry_count:], strict=True):
            steps[var] = value
            if uses[var] > within[var]:
                kept.append((var, value))
    inputs = [*constants.values(), *[value for _, value in carries], *xs.values()]
    outputs = [*nexts, *[value for _, value in kept]]
    builder.inputs = [value.operand for value in inputs if isinstance(value.operand, Var)]
    params: Params = {
        **loops[0].params,
        "body": builder.build(outputs),
        "const_count": len(constants),
        "carry_count": len(carries),
    }
    operands = (*constants, *[operand for operand, _ in carries], *xs)
    return Equation(scan_primitive, operands, params, (*results, *[var for var, _ in kept]))


def ordered(program: Program, merged: dict[Equation, Equation]) -> tuple[Equation, ...]:
    """Return the equations, those that are merged replaced, each behind those it takes from."""
    made = {var: merged.get(equation, equation) for equation in program.equations for var in equation.results}
    done: set[Equation] = set()
    found: list[Equation] = []
    for equation in program.equations:
        pending = [merged.get(equation, equation)]
        while pending:
            last = pending[-1]
            missing = [] if last in done else [made[item] for item in last.operands if item in made and made[item] not in done]
            if missing:
                pending += missing
                continue
            pending.pop()
            if last not in done:
                done.add(last)
                found.append(last)
    return tuple(found)
