"""The derivatives and batches of primitives that run sub-programs.

A sub-program is linearized once. What its tangents need of the primal run, the residuals, becomes further outputs of the primal
sub-program; the tangents become a sub-program of their own, linear, which takes residuals and tangents. So reverse mode is the
transposed linear sub-program, run backwards. Residuals that do not change from step to step are computed once, outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradwire_core.builder import Builder, Value
from gradwire_core.ops._declare import call
from gradwire_core.ops.control import RULES, Rules, cond_primitive, custom_primitive, scan_primitive
from gradwire_core.ops.elementwise import add, where
from gradwire_core.ops.shaping import broadcast_to, reshape
from gradwire_core.ops.shaping import transpose as permute
from gradwire_core.program import Equation, Literal, Operand, Param, Program, Var
from gradwire_core.transforms.dependence import linear_equations
from gradwire_core.transforms.linearize import Linearized, instantiate, linearize
from gradwire_core.transforms.transpose import transpose
from gradwire_core.transforms.vmap import vmap
from gradwire_core.types import TensorType

Params = Mapping[str, Param]
Tangents = Sequence[Value | None]


def _emit(builder: Builder, primitive: Any, operands: Sequence[Value], params: Params) -> list[Value]:
    return list(builder.emit(primitive, operands, dict(params)))


# -- parting a sub-program -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Parted:
    """A linearized sub-program, parted.

    Attributes:
        linear: the linearized sub-program.
        inputs: its inputs.
        residuals: the Values its tangents need of the primal run, inputs among them.
        active: which outputs have a tangent.
    """

    linear: Linearized
    inputs: list[Var]
    residuals: list[Var]
    active: list[bool]

    def tangent_program(self, tangent_inputs: Sequence[int], outputs: Sequence[int]) -> Program:
        """Return the program from residuals, then tangents, to the tangents of outputs.

        Args:
            tangent_inputs: the positions of the tangents among those linearized in.
            outputs: the positions of the outputs; one without a tangent gives zeros.
        """
        builder = Builder()
        known: dict[Operand, Value] = {var: builder.input(var.type) for var in self.residuals}
        for index in tangent_inputs:
            tangent = self.linear.tangents[index]
            known[tangent.operand] = builder.input(tangent.type)
        builder.inline_equations(self.linear.equations, known)
        found = []
        for index in outputs:
            tangent_output = self.linear.tangent_outputs[index]
            value = None if tangent_output is None else builder.resolve(tangent_output.operand, known)
            found.append(instantiate(builder, value, self.linear.outputs[index].type))
        return builder.build(found)


def _part(program: Program, argnums: Sequence[int]) -> _Parted:
    linear = linearize(program, argnums)
    inner = {value.operand for value in linear.tangents}
    inner.update(var for equation in linear.equations for var in equation.results)
    needed = [operand for equation in linear.equations for operand in equation.operands if operand not in inner]
    residuals = [operand for operand in dict.fromkeys(needed) if isinstance(operand, Var)]
    return _Parted(linear, list(linear.builder.inputs), residuals, [item is not None for item in linear.tangent_outputs])


def _active_positions(tangents: Tangents) -> list[int]:
    return [position for position, tangent in enumerate(tangents) if tangent is not None]


# -- cond ----------------------------------------------------------------------------------------------------------------------


def _linearize_cond(operands: Sequence[Value], tangents: Tangents, params: Any) -> tuple[list[Value], list[Value | None]]:
    builder = operands[1].builder
    chosen = [position - 1 for position in _active_positions(tangents)]
    parts = [_part(params[name], chosen) for name in ("on_true", "on_false")]
    own = [[var for var in part.residuals if var not in part.inputs] for part in parts]
    types = [var.type for residuals in own for var in residuals]
    branches = {
        name: _with_residuals(part, own, index)
        for index, (name, part) in enumerate(zip(("on_true", "on_false"), parts, strict=True))
    }
    found = _emit(builder, cond_primitive, operands, branches)
    count = len(found) - len(types)
    results, residuals = found[:count], found[count:]
    active = [index for index in range(count) if any(part.active[index] for part in parts)]
    if not active:
        return results, [None] * count
    given = [tangent for tangent in tangents if tangent is not None]
    linear = {
        name: _linear_branch(part, own, index, operands, len(chosen), active)
        for index, (name, part) in enumerate(zip(("on_true", "on_false"), parts, strict=True))
    }
    dots = _emit(builder, cond_primitive, [operands[0], *operands[1:], *residuals, *given], linear)
    spread: list[Value | None] = [None] * count
    for index, dot in zip(active, dots, strict=True):
        spread[index] = dot
    return results, spread


def _with_residuals(part: _Parted, own: list[list[Var]], mine: int) -> Program:
    """Return a branch that also gives the residuals of both branches: zeros for those of the other."""
    builder = part.linear.builder
    extra = [
        Value(builder, var) if index == mine else instantiate(builder, None, var.type)
        for index, residuals in enumerate(own)
        for var in residuals
    ]
    return builder.build([*part.linear.outputs, *extra])


def _linear_branch(
    part: _Parted, own: list[list[Var]], mine: int, operands: Sequence[Value], tangent_count: int, active: list[int]
) -> Program:
    """Return a branch from the operands, the residuals of both branches and the tangents to the tangents of the active outputs."""
    inner = part.tangent_program(range(tangent_count), active)
    builder = Builder()
    plain = [builder.input(value.type) for value in operands[1:]]
    known = dict(zip(part.inputs, plain, strict=True))
    for index, residuals in enumerate(own):
        for var in residuals:
            value = builder.input(var.type)
            if index == mine:
                known[var] = value
    tangents = [builder.input(tangent.type) for tangent in part.linear.tangents]
    return builder.build(builder.inline(inner, [*[known[var] for var in part.residuals], *tangents]))


def _transpose_cond(cotangents: Tangents, operands: Sequence[Any], params: Any) -> list[Value | None]:
    builder = next(item for item in cotangents if item is not None).builder
    linear = [isinstance(item, TensorType) for item in operands]
    types = params["on_true"].output_types
    full = [instantiate(builder, item, type) for item, type in zip(cotangents, types, strict=True)]
    branches = {name: _transposed(params[name], linear[1:]) for name in ("on_true", "on_false")}
    residuals = [item for item, flag in zip(operands[1:], linear[1:], strict=True) if not flag]
    found = iter(_emit(builder, cond_primitive, [operands[0], *residuals, *full], branches))
    return [next(found) if flag else None for flag in linear]


def _transposed(program: Program, linear: Sequence[bool]) -> Program:
    """Return the program from non-linear inputs, then cotangents of the outputs, to cotangents of the linear inputs."""
    builder = Builder()
    known: dict[Operand, Value] = {
        var: builder.free(var.type) if flag else builder.input(var.type) for var, flag in zip(program.inputs, linear, strict=True)
    }
    free = [known[var] for var, flag in zip(program.inputs, linear, strict=True) if flag]
    builder.inline_equations(program.equations, known)
    return builder.build(_pull(builder, program, known, free))


def _pull(builder: Builder, program: Program, known: dict[Operand, Value], free: Sequence[Value]) -> list[Value]:
    """Return the cotangents of free inputs, for cotangents of the outputs that become further inputs."""
    equations = linear_equations(builder, free)
    reached = {value.operand for value in free}.union(*[equation.results for equation in equations])
    outputs = [builder.resolve(operand, known) for operand in program.outputs]
    pairs = [(output if output.operand in reached else None, builder.input(output.type)) for output in outputs]
    found = transpose(builder, equations, free, pairs)
    return [instantiate(builder, item, value.type) for item, value in zip(found, free, strict=True)]


def _batch_cond(batched: Sequence[bool], operands: Sequence[Value], params: Any) -> Any:
    builder = operands[0].builder
    size = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    axes = [0 if flag else None for flag in batched[1:]]
    full = list(operands[1:])
    if not any(batched[1:]) and full:
        full[0], axes[0] = broadcast_to(full[0], (size, *full[0].shape)), 0
    branches = {name: vmap(params[name], axes, size) if full else params[name] for name in ("on_true", "on_false")}
    if not batched[0]:
        return tuple(_emit(builder, cond_primitive, [operands[0], *full], branches))
    one, other = [builder.inline(branches[name], full) for name in ("on_true", "on_false")]
    return tuple(_select(operands[0], x, y, size) for x, y in zip(one, other, strict=True))


def _select(condition: Value, x: Value, y: Value, size: int) -> Value:
    mask = reshape(condition, (size, *[1] * max(0, x.ndim - 1)))
    value: Value = where(mask, x, y)
    return value


# -- scan ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parts:
    """The operands of a scan by their part."""

    constants: list[Any]
    carries: list[Any]
    xs: list[Any]


def _split(items: Sequence[Any], params: Any) -> _Parts:
    first = params["const_count"] + params["carry_count"]
    return _Parts(list(items[: params["const_count"]]), list(items[params["const_count"] : first]), list(items[first:]))


def _active_body(tangents: Tangents, params: Any) -> list[bool]:
    """Return which inputs of the body have a tangent in some step: a carry may get its first in the body."""
    active = [tangent is not None for tangent in tangents]
    start, count = params["const_count"], params["carry_count"]
    while True:
        chosen = [position for position, flag in enumerate(active) if flag]
        found = [item is not None for item in linearize(params["body"], chosen).tangent_outputs[:count]]
        grown = [flag and not known for flag, known in zip(found, active[start : start + count], strict=True)]
        if not any(grown):
            return active
        for index, flag in enumerate(grown):
            active[start + index] = active[start + index] or flag


def _linearize_scan(operands: Sequence[Value], tangents: Tangents, params: Any) -> tuple[list[Value], list[Value | None]]:
    builder = operands[0].builder
    active = _active_body(tangents, params)
    chosen = [position for position, flag in enumerate(active) if flag]
    part = _part(params["body"], chosen)
    constant_vars = set(part.inputs[: params["const_count"]])
    x_vars = part.inputs[params["const_count"] + params["carry_count"] :]
    known: dict[Operand, Value] = dict(zip(part.inputs[: params["const_count"]], operands, strict=False))
    if params["is_checkpointed"]:
        part = _recomputing(part)
    fixed = _fixed(part, constant_vars)
    builder.inline_equations(fixed, known)
    plain: dict[Operand, Value] = dict(zip(x_vars, operands[len(operands) - len(x_vars) :], strict=True))
    stacked = [var for var in part.residuals if var not in known and var not in plain]
    body = part.linear.builder.build([*part.linear.outputs, *[Value(part.linear.builder, var) for var in stacked]])
    found = _emit(builder, scan_primitive, operands, {**params, "body": body})
    count = len(found) - len(stacked)
    sources: dict[Operand, Value] = {**known, **plain, **_by_operand(stacked, found[count:])}
    dots = _tangent_scan(builder, part, sources, known, operands, tangents, chosen, params)
    return found[:count], dots


def _by_operand(operands: Sequence[Operand], values: Sequence[Value]) -> dict[Operand, Value]:
    return dict(zip(operands, values, strict=True))


def _fixed(part: _Parted, constants: set[Var]) -> list[Equation]:
    """Return the equations of the primal body that depend on nothing but constants, as far as residuals need them."""
    fixed: set[Operand] = {*constants}
    found = []
    for equation in part.linear.builder.equations:
        if all(isinstance(operand, Literal) or operand in fixed for operand in equation.operands):
            fixed.update(equation.results)
            found.append(equation)
    needed: set[Operand] = {*part.residuals}
    kept = []
    for equation in reversed(found):
        if not needed.isdisjoint(equation.results):
            needed.update(equation.operands)
            kept.append(equation)
    return kept[::-1]


def _recomputing(part: _Parted) -> _Parted:
    """Return a parting whose residuals are inputs of the body alone: the tangents compute the others again."""
    linear = part.linear
    inner = {value.operand for value in linear.tangents}
    linear = Linearized(linear.builder, linear.outputs, linear.tangents, list(linear.builder.equations), linear.tangent_outputs)
    needed = {operand for equation in linear.equations for operand in equation.operands} - inner
    return _Parted(linear, part.inputs, [var for var in part.inputs if var in needed], part.active)


def _tangent_scan(
    builder: Builder,
    part: _Parted,
    sources: Mapping[Any, Value],
    known: Mapping[Any, Value],
    operands: Sequence[Value],
    tangents: Tangents,
    chosen: Sequence[int],
    params: Any,
) -> list[Value | None]:
    first, last = params["const_count"], params["const_count"] + params["carry_count"]
    groups = [
        [index for index, place in enumerate(chosen) if low <= place < high]
        for low, high in ((0, first), (first, last), (last, len(operands)))
    ]
    carries = [chosen[index] - first for index in groups[1]]
    ys = [index for index in range(params["carry_count"], len(part.active)) if part.active[index]]
    if not carries and not ys:
        return [None] * len(part.active)
    once = [var for var in part.residuals if var in known]
    each = [var for var in part.residuals if var not in known]
    inner = part.tangent_program([index for group in groups for index in group], [*carries, *ys])
    order = [*once, *each]
    body = _reordered(inner, part.residuals, order, [len(once), len(groups[0]), len(groups[1]), len(each), len(groups[2])])
    full = [[instantiate(builder, tangents[chosen[index]], operands[chosen[index]].type) for index in group] for group in groups]
    rows = [*[sources[var] for var in once], *full[0], *full[1], *[sources[var] for var in each], *full[2]]
    changed = {
        **params,
        "body": body,
        "const_count": len(once) + len(groups[0]),
        "carry_count": len(carries),
        "is_checkpointed": False,
    }
    found = iter(_emit(builder, scan_primitive, rows, changed))
    places = [*carries, *ys]
    dots: list[Value | None] = [None] * len(part.active)
    for place in places:
        dots[place] = next(found)
    return dots


def _reordered(inner: Program, residuals: Sequence[Var], order: Sequence[Var], counts: Sequence[int]) -> Program:
    """Return a program that takes (constant residuals, constant tangents, carry tangents, stacked residuals, x tangents)."""
    once, constants, carries, each, xs = counts
    builder = Builder()
    types = {var: var.type for var in order}
    tangent_types = inner.input_types[len(residuals) :]
    known = {var: builder.input(types[var]) for var in order[:once]}
    dots = [builder.input(type) for type in tangent_types[: constants + carries]]
    known.update({var: builder.input(types[var]) for var in order[once : once + each]})
    dots += [builder.input(type) for type in tangent_types[constants + carries : constants + carries + xs]]
    return builder.build(builder.inline(inner, [*[known[var] for var in residuals], *dots]))


def _transpose_scan(cotangents: Tangents, operands: Sequence[Any], params: Any) -> list[Value | None]:
    """Run backwards: cotangents of the carry go from step to step, those of constants are summed on the way."""
    builder = next(item for item in cotangents if item is not None).builder
    parts = _split(operands, params)
    count = params["carry_count"]
    body: Program = params["body"]
    flags = [[isinstance(item, TensorType) for item in group] for group in (parts.constants, parts.carries, parts.xs)]
    flags[1] = [True] * count  # a carry that starts at literal zeros is linear from the first step on
    types = [
        type if index < count else type.with_shape((params["length"], *type.shape)) for index, type in enumerate(body.output_types)
    ]
    full = [instantiate(builder, item, type) for item, type in zip(cotangents, types, strict=True)]
    residuals = [
        [item for item, flag in zip(group, flag_group, strict=True) if not flag]
        for group, flag_group in zip((parts.constants, parts.xs), (flags[0], flags[2]), strict=True)
    ]
    sums = [item for item, flag in zip(parts.constants, flags[0], strict=True) if flag]
    backward = _transposed_body(body, flags, count)
    rows = [*residuals[0], *full[:count], *[instantiate(builder, None, type) for type in sums], *residuals[1], *full[count:]]
    changed = {
        **params,
        "body": backward,
        "const_count": len(residuals[0]),
        "carry_count": count + len(sums),
        "is_reversed": not params["is_reversed"],
    }
    found = _emit(builder, scan_primitive, rows, changed)
    carried, summed, stacked = found[:count], iter(found[count : count + len(sums)]), iter(found[count + len(sums) :])
    return [
        *[next(summed) if flag else None for flag in flags[0]],
        *carried,
        *[next(stacked) if flag else None for flag in flags[2]],
    ]


def _transposed_body(body: Program, flags: Sequence[Sequence[bool]], count: int) -> Program:
    """Return the body that takes (residual constants, cotangents of the carry, sums, residual xs, cotangents of the ys)."""
    linear = [flag for group in flags for flag in group]
    backward = _transposed(body, linear)
    widths = [len(group) for group in flags]
    builder = Builder()
    kept = [var.type for var, flag in zip(body.inputs, linear, strict=True) if not flag]
    constant_count = flags[0].count(False)
    first = [builder.input(type) for type in kept[:constant_count]]
    carry = [builder.input(type) for type in body.output_types[:count]]
    sums = [builder.input(var.type) for var, flag in zip(body.inputs[: widths[0]], flags[0], strict=True) if flag]
    xs = [builder.input(type) for type in kept[constant_count:]]
    ys = [builder.input(type) for type in body.output_types[count:]]
    found = builder.inline(backward, [*first, *xs, *carry, *ys])
    added = [add(total, part) for total, part in zip(sums, found, strict=False)]
    rest = found[len(sums) :]
    return builder.build([*rest[:count], *added, *rest[count:]])


def _batch_scan(batched: Sequence[bool], operands: Sequence[Value], params: Any) -> Any:
    """Batch the body; xs and ys keep the scanned axis first, carries are all batched."""
    builder = operands[0].builder
    size = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    parts, flags = _split(operands, params), _split(batched, params)
    carries = [
        item if flag else broadcast_to(item, (size, *item.shape)) for item, flag in zip(parts.carries, flags.carries, strict=True)
    ]
    xs = [_exchanged(item) if flag else item for item, flag in zip(parts.xs, flags.xs, strict=True)]
    axes = [0 if flag else None for flag in (*flags.constants, *[True] * len(carries), *flags.xs)]
    body = vmap(params["body"], axes, size)
    found = _emit(builder, scan_primitive, [*parts.constants, *carries, *xs], {**params, "body": body})
    count = params["carry_count"]
    return (*found[:count], *[_exchanged(item) for item in found[count:]])


def _exchanged(item: Value) -> Value:
    """Return a Value with its first two axes exchanged."""
    value: Value = permute(item, (1, 0, *range(2, item.ndim)))
    return value


# -- custom --------------------------------------------------------------------------------------------------------------------


def _linearize_custom(operands: Sequence[Value], tangents: Tangents, params: Any) -> tuple[list[Value], list[Value | None]]:
    builder = operands[0].builder
    results = _emit(builder, custom_primitive, operands, params)
    given = [
        instantiate(builder, tangent, operand.type)
        for tangent, operand in zip(tangents, operands, strict=True)
        if operand.type.dtype.is_inexact
    ]
    dots = iter(builder.inline(params["tangent"], [*operands, *given]))
    return results, [next(dots) if result.type.dtype.is_inexact else None for result in results]


def _transpose_custom(cotangents: Tangents, operands: Sequence[Any], params: Any) -> list[Value | None]:
    builder = next(item for item in cotangents if item is not None).builder
    linear = [isinstance(item, TensorType) for item in operands]
    full = [instantiate(builder, item, type) for item, type in zip(cotangents, params["body"].output_types, strict=True)]
    residuals = [item for item, flag in zip(operands, linear, strict=True) if not flag]
    found = iter(builder.inline(_transposed(params["body"], linear), [*residuals, *full]))
    return [next(found) if flag else None for flag in linear]


def _batch_custom(batched: Sequence[bool], operands: Sequence[Value], params: Any) -> Any:
    size = next(item.shape[0] for item, flag in zip(operands, batched, strict=True) if flag)
    axes = [0 if flag else None for flag in batched]
    inexact = [axis for axis, item in zip(axes, params["body"].input_types, strict=True) if item.dtype.is_inexact]
    body = vmap(params["body"], axes, size)
    tangent_axes = [*axes, *inexact]
    tangent = vmap(params["tangent"], tangent_axes, size)
    return call(custom_primitive, *operands, body=body, tangent=tangent)


RULES["cond"] = Rules(_linearize_cond, _transpose_cond, _batch_cond)
RULES["scan"] = Rules(_linearize_scan, _transpose_scan, _batch_scan)
RULES["custom"] = Rules(_linearize_custom, _transpose_custom, _batch_custom)
