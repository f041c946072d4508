"""Contractions: one primitive, `einsum`, and NumPy's names for its special cases.

Its subscripts are explicit, a label occurs at most once in an operand and in the output, and equal labels have equal lengths. A
repeated label is a diagonal, taken before; an axis of length 1 that broadcasts is removed before.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import implements
from gradwire_core.einsum import contract, einsum_flops
from gradwire_core.errors import DtypeError, ProgramError, ShapeError
from gradwire_core.ops._declare import Linear, Sample, call, declare, draw, normalize_axes
from gradwire_core.ops.complex import conj
from gradwire_core.ops.shaping import broadcast_to, promote, reshape, take_diagonal, transpose
from gradwire_core.program import Primitive
from gradwire_core.types import TensorType


def split_subscripts(subscripts: str) -> tuple[list[str], str]:
    """Return the labels of each operand and of the output of explicit subscripts."""
    left, _, right = subscripts.partition("->")
    return left.split(","), right


def _infer(*operands: TensorType, subscripts: str) -> tuple[TensorType, ...]:
    inputs, output = split_subscripts(subscripts)
    where = f"einsum {subscripts}"
    named = all(set(labels) <= set(string.ascii_letters) and len(set(labels)) == len(labels) for labels in (*inputs, output))
    if "->" not in subscripts or not named or not set(output) <= set("".join(inputs)):
        raise ProgramError(f"{where}: needed explicit subscripts without repeats in one operand; rewrite them", given=subscripts)
    names = ", ".join(map(str, operands))
    if len(inputs) != len(operands) or any(len(labels) != item.ndim for labels, item in zip(inputs, operands, strict=False)):
        raise ShapeError(
            f"{where}: needed one operand for each group and one axis for each label, got {names}; correct them", given=names
        )
    if any(item.dtype is not operands[0].dtype for item in operands):
        raise DtypeError(f"{where}: needed operands of one dtype, got {names}; convert them", given=names)
    sizes: dict[str, int] = {}
    for labels, item in zip(inputs, operands, strict=True):
        for label, length in zip(labels, item.shape, strict=True):
            if sizes.setdefault(label, length) != length:
                raise ShapeError(
                    f"{where}: operands disagree on the length of {label!r}, got {names}; make them agree", given=names, label=label
                )
    return (operands[0].with_shape(tuple(sizes[label] for label in output)),)


def _derivative(position: int) -> Linear:
    def transpose_rule(ct: Any, *operands: Any, subscripts: str) -> Any:
        inputs, output = split_subscripts(subscripts)
        others = [item for index, item in enumerate(operands) if index != position]
        groups = [output, *[labels for index, labels in enumerate(inputs) if index != position]]
        mine, shape = inputs[position], operands[position].shape
        present = set("".join(groups))
        found = "".join(label for label in mine if label in present)
        part = einsum_of(f"{','.join(groups)}->{found}", ct, *others)
        # Labels that only this operand has were summed: their cotangent is a broadcast.
        lengths = tuple(length if label in present else 1 for label, length in zip(mine, shape, strict=True))
        return broadcast_to(reshape(part, lengths), shape)

    return Linear(transpose_rule)


def _batch(batched: Sequence[bool], operands: Sequence[Any], params: Any) -> Any:
    inputs, output = split_subscripts(params["subscripts"])
    fresh = next(label for label in string.ascii_letters if label not in params["subscripts"])
    groups = [fresh + labels if flag else labels for labels, flag in zip(inputs, batched, strict=True)]
    return einsum_of(f"{','.join(groups)}->{fresh}{output}", *operands)


_einsum: Primitive = declare(
    Primitive(
        name="einsum",
        kernel=contract,
        infer=_infer,
        derivative=_derivative,
        batch=_batch,
        arity=None,
        params=("subscripts",),
        doc="Product of the operands, summed over the labels that the output lacks.",
        samples=lambda rng: [
            Sample((draw(rng, 2, 3), draw(rng, 3, 4)), {"subscripts": "ij,jk->ik"}),
            Sample((draw(rng, 5, 2, 3), draw(rng, 5, 3)), {"subscripts": "bij,bj->bi"}),
            Sample((draw(rng, 2), draw(rng, 3), draw(rng, 2, 3)), {"subscripts": "i,j,ij->"}),
            Sample((draw(rng, 2, 3),), {"subscripts": "ij->j"}),
            Sample((draw(rng, 2, dtype="float32"), draw(rng, 3, dtype="float32")), {"subscripts": "i,j->ji"}),
        ],
        flops=lambda *operands, subscripts: einsum_flops(subscripts, *[item.shape for item in operands]),
    )
)


def einsum_of(subscripts: str, *operands: Any) -> Any:
    """Return a contraction by explicit subscripts; one that only permutes axes is a transpose."""
    inputs, output = split_subscripts(subscripts)
    if len(operands) == 1 and len(inputs[0]) == len(output):
        return transpose(operands[0], tuple(inputs[0].index(label) for label in output))
    return call(_einsum, *operands, subscripts=subscripts)


@implements(np.einsum)
def einsum(subscripts: str, *operands: Any, **kwargs: Any) -> Any:
    """Return the Einstein sum of operands, as `numpy.einsum`: implicit outputs, ellipses and repeated labels too."""
    if not isinstance(subscripts, str):
        raise ProgramError("einsum: needed subscripts as text, got operands with index lists; write them as 'ij,jk->ik'")
    arrays = promote("einsum", operands)
    inputs, output = _expand(subscripts.replace(" ", ""), [item.ndim for item in arrays])
    groups = []
    for index, labels in enumerate(inputs):
        if len(labels) != arrays[index].ndim:
            raise ShapeError(
                f"einsum {subscripts}: needed {len(labels)} axes in operand {index}, got shape {list(arrays[index].shape)}",
                given=index,
            )
        numbers = tuple(string.ascii_letters.index(label) for label in labels)
        arrays[index] = take_diagonal(arrays[index], numbers)
        groups.append("".join(dict.fromkeys(labels)))
    return _squeeze_broadcast(groups, output, arrays)


def _squeeze_broadcast(groups: list[str], output: str, arrays: list[Any]) -> Any:
    """Contract after removing axes of length 1 that meet longer ones."""
    longest: dict[str, int] = {}
    for labels, item in zip(groups, arrays, strict=True):
        for label, length in zip(labels, item.shape, strict=True):
            longest[label] = max(longest.get(label, 0), length) if length != 1 else longest.get(label, 1)
    for index, (labels, item) in enumerate(zip(groups, arrays, strict=True)):
        keep = [place for place, label in enumerate(labels) if item.shape[place] == longest[label]]
        if len(keep) < len(labels) and all(item.shape[place] == 1 for place in range(len(labels)) if place not in keep):
            arrays[index] = reshape(item, tuple(item.shape[place] for place in keep))
            groups[index] = "".join(labels[place] for place in keep)
    return einsum_of(f"{','.join(groups)}->{output}", *arrays)


def _expand(subscripts: str, ranks: list[int]) -> tuple[list[str], str]:
    """Return explicit labels for subscripts with ellipses or without an output."""
    left, arrow, right = subscripts.partition("->")
    groups = left.split(",")
    if len(groups) != len(ranks):
        raise ShapeError(
            f"einsum {subscripts}: needed {len(groups)} operands, got {len(ranks)}; pass one for each group", given=len(ranks)
        )
    free = [label for label in string.ascii_letters if label not in subscripts]
    widths = [rank - len(group.replace("...", "")) if "..." in group else 0 for group, rank in zip(groups, ranks, strict=True)]
    run = "".join(free[: max(0, *widths)]) if widths else ""
    inputs = [group.replace("...", run[len(run) - width :]) for group, width in zip(groups, widths, strict=True)]
    if not arrow:
        joined = left.replace(",", "").replace("...", "")
        right = "..." * bool(run) + "".join(sorted(label for label in set(joined) if joined.count(label) == 1))
    output = right.replace("...", run)
    if len(set(output)) != len(output) or not set(output) <= set("".join(inputs)):
        text = f"einsum {subscripts}: needed an output of distinct labels that operands have, got {right!r}; correct it"
        raise ProgramError(text, given=right)
    return inputs, output


# -- NumPy's names -----------------------------------------------------------------------------------------------------------


@implements(np.matmul)
def matmul(x: Any, y: Any) -> Any:
    """Return the matrix product over the last axis of x and the second to last of y, batched over leading axes."""
    x, y = promote("matmul", [x, y])
    if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        given = f"{list(x.shape)} and {list(y.shape)}"
        raise ShapeError(
            f"matmul: operands must share their inner length, got shapes {given}; transpose one or reshape", given=given
        )
    left = "...ij" if x.ndim > 1 else "j"
    right = "...jk" if y.ndim > 1 else "j"
    out = f"...{'i' if x.ndim > 1 else ''}{'k' if y.ndim > 1 else ''}"
    return einsum(f"{left},{right}->{out if '...' in left + right else out[3:]}", x, y)


@implements(np.dot)
def dot(x: Any, y: Any, out: Any = None) -> Any:
    """Return the product over the last axis of x and the second to last of y; a product by a number where one is 0-d."""
    x, y = promote("dot", [x, y])
    if x.ndim == 0 or y.ndim == 0:
        return x * y
    return tensordot(x, y, ([x.ndim - 1], [max(y.ndim - 2, 0)]))


@implements(np.inner)
def inner(x: Any, y: Any) -> Any:
    """Return the product summed over the last axes of both."""
    x, y = promote("inner", [x, y])
    return x * y if x.ndim == 0 or y.ndim == 0 else tensordot(x, y, ([x.ndim - 1], [y.ndim - 1]))


@implements(np.outer)
def outer(x: Any, y: Any, out: Any = None) -> Any:
    """Return the matrix of all products of elements of x and y, flattened."""
    x, y = promote("outer", [x, y])
    return einsum_of("i,j->ij", reshape(x, (x.size,)), reshape(y, (y.size,)))


@implements(np.vdot)
def vdot(x: Any, y: Any) -> Any:
    """Return the sum of products of elements of x (conjugated) and y, flattened."""
    x, y = promote("vdot", [x, y])
    return einsum_of("i,i->", conj(reshape(x, (x.size,))), reshape(y, (y.size,)))


@implements(np.tensordot)
def tensordot(x: Any, y: Any, axes: Any = 2) -> Any:
    """Return the product summed over pairs of axes; an integer N pairs the last N axes of x with the first N of y."""
    x, y = promote("tensordot", [x, y])
    if isinstance(axes, (int, np.integer)):
        pairs = ([*range(x.ndim - int(axes), x.ndim)], [*range(int(axes))])
    else:
        pairs = tuple([item] if isinstance(item, (int, np.integer)) else [*item] for item in axes)  # type: ignore[assignment]
    left, right = [normalize_pair(item, array.ndim) for item, array in zip(pairs, (x, y), strict=True)]
    if len(left) != len(right) or any(x.shape[one] != y.shape[other] for one, other in zip(left, right, strict=False)):
        given = f"{list(x.shape)} and {list(y.shape)} over axes {axes}"
        raise ShapeError(f"tensordot: operands must agree on the summed lengths, got {given}; correct the axes", given=given)
    names = string.ascii_letters[: x.ndim]
    fresh = iter(string.ascii_letters[x.ndim :])
    paired = dict(zip(right, left, strict=True))
    others = "".join(names[paired[axis]] if axis in paired else next(fresh) for axis in range(y.ndim))
    output = "".join(label for axis, label in enumerate(names) if axis not in left)
    output += "".join(label for axis, label in enumerate(others) if axis not in paired)
    return einsum_of(f"{names},{others}->{output}", x, y)


def normalize_pair(axes: Sequence[int], ndim: int) -> list[int]:
    """Return axes as non-negative numbers in their order.

    Raises:
        ShapeError: an axis does not exist or occurs twice.
    """
    normalize_axes("tensordot", tuple(axes), ndim)
    return [int(axis) % ndim for axis in axes]
