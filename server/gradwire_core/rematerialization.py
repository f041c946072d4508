"""Rematerialization: what a plan would hold across its peak is computed again where it is used, while memory is short.

    a plan over its bound --values that live across the peak, cheap to compute from what lives anyway--> their uses behind it take
    copies, computed right before them --planned again--> the next peak, until the bound is kept or nothing is left to try

Only elementwise equations and views are computed again, with the operands they had, so that every bit stays. These pass a barrier,
an equation that gives its first operand once there is the second, a value from behind the peak: so no cluster takes a copy into the
company of what it is a copy of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gradwire_core.planner import SHARING, Plan
from gradwire_core.program import Equation, Literal, Operand, Primitive, Program, Var

MOST_PLANS = 64
MOST_WORK = 40_000
"""So often a program is planned at most, and so many equations are planned in all."""
MOST_EQUATIONS = 24
"""So many equations are repeated for one value at most."""
SMALL = 16
"""What is by so many times smaller than the value may live longer for it."""


def _refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a barrier is made after every transform")


BARRIER = Primitive(
    name="barrier",
    kernel=lambda x, _: x,
    infer=lambda x, _: (x,),
    derivative=_refuse,
    batch=_refuse,
    arity=2,
    params=(),
    doc="x, not before there is the other operand.",
    samples=lambda _: (),
    flops=lambda *_: 0.0,
)


def fit(program: Program, max_bytes: int, planned: Callable[[Program], Plan]) -> Plan:
    """Return a plan of a program that keeps a bound, if that can be found; else the plan of the program as it is.

    Args:
        program: what is to run.
        max_bytes: the bound on `peak_bytes`.
        planned: plans a program, in the order of its equations but for its clusters.
    """
    first = found = planned(program)
    refused: set[Operand] = set()
    plans_left = min(MOST_PLANS, MOST_WORK // max(len(program.equations), 1)) if _least_bytes(found) <= max_bytes else 0
    while found.peak_bytes > max_bytes and plans_left:
        across = _Across(program, found)
        chosen = across.choose(found.peak_bytes - max_bytes, refused)
        if not chosen:
            break
        while chosen and plans_left:
            plans_left -= 1
            changed = _recompute(across.ordered(), chosen)
            other = planned(changed)
            if other.peak_bytes < found.peak_bytes or (other.peak_bytes == found.peak_bytes and len(chosen) == 1):
                program, found = changed, other
                break
            refused.update([chosen[0].root] if len(chosen) == 1 else ())
            chosen = chosen[: len(chosen) // 2]
    return found if found.peak_bytes <= max_bytes else first


def _least_bytes(plan: Plan) -> int:
    """Return what any plan takes: the inputs and, at some time, what an equation makes that is part of no cluster."""
    made = [
        step.nbytes for step in plan.steps if len(step.results) == 1 and not isinstance(step.equation.params.get("body"), Program)
    ]
    return sum(type.nbytes for type in plan.program.input_types) + max(made, default=0)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A value that could be computed again.

    Attributes:
        root: the value that holds the memory.
        holders: it and its views, as far as they are used behind the peak.
        equations: what computes them, in order.
        anchors: what that takes, and what so has to live.
        users: the equations behind the peak that take a holder.
        token: what the first of them takes, made as late as possible.
        flops: what computing them takes.
    """

    root: Var
    holders: frozenset[Operand]
    equations: tuple[Equation, ...]
    anchors: frozenset[Operand]
    users: frozenset[Equation]
    token: Operand
    flops: float

    @property
    def price(self) -> float:
        """The flops for each byte."""
        return self.flops / max(self.root.type.nbytes, 1)


class _Across:
    """What lives across the peak of a plan.

    A step of the plan is an equation of the program, or the members of a cluster, whose values in between have no memory.
    """

    def __init__(self, program: Program, plan: Plan) -> None:
        self._makers: dict[Operand, Equation] = {var: item for item in program.equations for var in item.results}
        self._numbers = {equation: number for number, equation in enumerate(program.equations)}
        self._peak = plan.peak_step
        self._plan = plan
        self._program = program
        self._made_at: dict[Operand, int] = {var: number for number, step in enumerate(plan.steps) for var in step.equation.results}
        self._roots = self._find_roots(program)
        self._steps = self._find_steps(program)
        self._users: dict[Operand, list[Equation]] = {}
        self._last: dict[Operand, int] = {}
        for equation in program.equations:
            for operand in dict.fromkeys(equation.operands):
                self._users.setdefault(operand, []).append(equation)
                root = self._roots.get(operand, operand)
                self._last[root] = max(self._last.get(root, -1), self._steps.get(equation, -1))
        for output in program.outputs:
            self._last[self._roots.get(output, output)] = len(plan.steps)
        self._kept = {self._roots.get(output, output) for output in program.outputs}

    def ordered(self) -> Program:
        """Return the program in the order of the plan: members of a cluster stand together, behind all that any of them takes."""
        equations = sorted(self._steps, key=lambda item: (self._steps[item], self._numbers[item]))
        return Program(self._program.inputs, tuple(equations), self._program.outputs)

    def _find_roots(self, program: Program) -> dict[Operand, Operand]:
        """Return the value that holds the memory of each view."""
        roots: dict[Operand, Operand] = {}
        for equation in program.equations:
            if equation.primitive.name in SHARING:
                roots[equation.results[0]] = roots.get(equation.operands[0], equation.operands[0])
        return roots

    def _find_steps(self, program: Program) -> dict[Equation, int]:
        """Return the step of the plan that runs each equation; what has no memory runs with what takes it."""
        taken_at: dict[Operand, int] = {}
        steps: dict[Equation, int] = {}
        for equation in reversed(program.equations):
            found = [self._made_at[var] for var in equation.results if var in self._made_at]
            found = found or [taken_at[var] for var in equation.results if var in taken_at]
            if not found:  # nothing needs it
                continue
            steps[equation] = min(found)
            for operand in equation.operands:
                taken_at[operand] = min(taken_at.get(operand, steps[equation]), steps[equation])
        return steps

    def choose(self, needed_bytes: int, refused: set[Operand]) -> list[_Candidate]:
        """Return values that hold so many bytes across the peak, the cheapest first; none takes another, so there may be too few.

        Where even all together do not hold as much, there is none.
        """
        found = sorted([item for item in self._candidates() if item.root not in refused], key=lambda item: item.price)
        if sum(item.root.type.nbytes for item in found) < needed_bytes:
            return []
        chosen: list[_Candidate] = []
        dropped: set[Operand] = set()
        pinned: set[Operand] = set()
        for item in found:
            roots = {self._roots.get(operand, operand) for operand in item.anchors}
            if needed_bytes <= 0:
                break
            if item.root in pinned or not roots.isdisjoint(dropped):
                continue
            chosen.append(item)
            dropped.add(item.root)
            pinned |= roots
            needed_bytes -= item.root.type.nbytes
        return chosen

    def _candidates(self) -> Iterator[_Candidate]:
        views: dict[Operand, list[Operand]] = {}
        for view, root in self._roots.items():
            views.setdefault(root, []).append(view)
        for root, made_at in self._made_at.items():
            lives_across = made_at < self._peak < self._last.get(root, -1)
            if not (lives_across and isinstance(root, Var)) or root in self._roots or root in self._kept:
                continue
            item = self._candidate(root, [root, *views.get(root, ())])
            if item is not None:
                yield item

    def _candidate(self, root: Var, shared: Sequence[Operand]) -> _Candidate | None:
        """Return a value that could be computed again; None where it is needed at the peak itself, or is not cheap."""
        made_before = [var for var in shared if var is root or self._steps.get(self._makers[var], -1) < self._peak]
        users = {var: [item for item in self._users.get(var, ()) if item in self._steps] for var in made_before}
        holders = {var for var, items in users.items() if any(self._is_behind(item) for item in items)}
        behind = [item for var in holders for item in users[var] if self._is_behind(item)]
        others = [item for items in users.values() for item in items if not self._is_behind(item)]
        if not behind or any(self._steps[item] == self._peak for item in others):
            return None
        first = min(self._steps[item] for item in behind)
        found = self._find_equations(holders, root, first)
        if found is None:
            return None
        equations, anchors = found
        flops = sum(item.primitive.flops(*[operand.type for operand in item.operands], **item.params) for item in equations)
        token = max(self._plan.steps[first].equation.operands, key=lambda operand: self._made_at.get(operand, -1))
        return _Candidate(root, frozenset(holders), tuple(equations), frozenset(anchors), frozenset(behind), token, float(flops))

    def _is_behind(self, equation: Equation) -> bool:
        return self._steps[equation] > self._peak

    def _find_equations(self, holders: set[Operand], root: Var, first: int) -> tuple[list[Equation], set[Operand]] | None:
        """Return what computes holders again before a step, and what that takes; None where that is too much."""
        equations: set[Equation] = set()
        anchors: set[Operand] = set()
        waiting = [*holders]
        while waiting:
            equation = self._makers[waiting.pop()]
            if equation in equations:
                continue
            if not _is_cheap(equation) or len(equations) == MOST_EQUATIONS:
                return None
            equations.add(equation)
            for operand in equation.operands:
                is_view = operand in self._roots
                if not is_view and self._lives(operand, root, first):
                    anchors.add(operand)
                elif operand in self._makers:
                    waiting.append(operand)
        return sorted(equations, key=self._numbers.__getitem__), anchors

    def _lives(self, operand: Operand, root: Var, first: int) -> bool:
        """Whether an operand is there at a step without, or almost without, taking memory for it."""
        if operand is root:
            return False
        if operand not in self._makers:  # an input or a literal
            return True
        is_small = operand.type.nbytes * SMALL <= root.type.nbytes
        return operand in self._made_at and (is_small or self._last.get(operand, -1) >= first)


def _is_cheap(equation: Equation) -> bool:
    return len(equation.results) == 1 and (equation.primitive.is_elementwise or equation.primitive.name in SHARING)


def _recompute(program: Program, chosen: Sequence[_Candidate]) -> Program:
    """Return the program in which users of candidates take copies, computed right before the first of them."""
    copying = _Copying()
    takers: dict[Equation, list[_Candidate]] = {}
    for item in chosen:
        for user in item.users:
            takers.setdefault(user, []).append(item)
    for equation in program.equations:
        taken: dict[Operand, Operand] = {}
        for item in takers.get(equation, ()):
            copies = copying.copies_of(item)
            taken.update((holder, copies[holder]) for holder in item.holders)
        copying.add(equation, taken)
    return Program(program.inputs, tuple(copying.equations), program.outputs)


class _Copying:
    """A program under construction, in which some equations stand twice."""

    def __init__(self) -> None:
        self.equations: list[Equation] = []
        self._copies: dict[_Candidate, dict[Operand, Operand]] = {}
        self._behind: dict[tuple[Operand, Operand], Var] = {}

    def add(self, equation: Equation, taken: dict[Operand, Operand]) -> None:
        """Add an equation that takes other operands in place of some."""
        if taken:
            operands = tuple([taken.get(operand, operand) for operand in equation.operands])
            equation = Equation(equation.primitive, operands, equation.params, equation.results)
        self.equations.append(equation)

    def copies_of(self, item: _Candidate) -> dict[Operand, Operand]:
        """Return the copies of a candidate and what they are made of, which stand before whatever is added next."""
        known = self._copies.get(item)
        if known is None:
            known = self._copies[item] = {}
            for anchor in item.anchors:
                if not isinstance(anchor, Literal):
                    known[anchor] = self._pass_barrier(anchor, item.token)
            for equation in item.equations:
                (result,) = equation.results
                copy = Var(result.type)
                operands = tuple([known.get(operand, operand) for operand in equation.operands])
                self.equations.append(Equation(equation.primitive, operands, equation.params, (copy,)))
                known[result] = copy
        return known

    def _pass_barrier(self, anchor: Operand, token: Operand) -> Var:
        found = self._behind.get((anchor, token))
        if found is None:
            found = self._behind[anchor, token] = Var(anchor.type)
            self.equations.append(Equation(BARRIER, (anchor, token), {}, (found,)))
        return found
