"""How a primitive is declared: once, with everything that is to be known of it.

A declaration gives the kernel, the types, one derivative for each operand, the batching rule, the domain tests sample from and
the cost. The factories here (`elementwise`) fill in what a family shares; `declare` takes every field by name. What users
call is made here too: an `Op`, which lifts arrays and scalars, broadcasts and promotes, and adds the equation.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gradwire_core.builder import Builder, Value, builder_of, implements
from gradwire_core.errors import DtypeError, ShapeError, UnknownPrimitiveError
from gradwire_core.program import Constant, Derivative, Linear, Param, Primitive, Sample, Tangent
from gradwire_core.types import Array, Dtype, Shape, TensorType

PRIMITIVES: dict[str, Primitive] = {}
COMMUTATIVE = (np.add, np.multiply)
MOST_KNOWN_TYPES = 256
NO_PARAMS: dict[str, Param] = {}
Interval = tuple[float, float]


def find_primitive(name: str) -> Primitive:
    """Return the primitive of a name.

    Raises:
        UnknownPrimitiveError: there is none; the text names the nearest.
    """
    found = PRIMITIVES.get(name)
    if found is None:
        nearest = difflib.get_close_matches(name, PRIMITIVES, n=1, cutoff=0.0)[0]
        text = f"primitive: needed one this version has, got {name!r}; the nearest is {nearest!r} (GetCapabilities lists all)"
        raise UnknownPrimitiveError(text, given=name, nearest=nearest)
    return found


def declare(primitive: Primitive) -> Primitive:
    """Enter a primitive into the registry."""
    assert primitive.name not in PRIMITIVES, primitive.name
    PRIMITIVES[primitive.name] = primitive
    return primitive


def by_position(*derivatives: Derivative) -> Callable[[int], Derivative]:
    """Return the derivatives of a primitive of fixed arity as a function of the operand's position."""
    return derivatives.__getitem__


def call(primitive: Primitive, *operands: Any, **params: Param) -> Any:
    """Apply a primitive to Values, arrays or scalars of the types it takes.

    Returns its result, or a tuple of them: Values, or arrays where no operand is a Value.
    """
    builder = builder_of(operands)
    if builder is None:
        eager = Builder(folds=True)
        results: Any = tuple(_number(value) for value in eager.emit(primitive, [eager.lift(item) for item in operands], params))
    else:
        results = builder.emit(primitive, [builder.lift(item) for item in operands], params)
    return results[0] if len(results) == 1 else results


def _number(value: Value) -> Array:
    from gradwire_core.program import Literal

    assert isinstance(value.operand, Literal)
    return value.operand.value


def constant(like: Any, array: Any) -> Any:
    """Return a constant in the builder of a Value, or the array itself beside arrays."""
    return like.builder.literal(array) if isinstance(like, Value) else np.asarray(array)


def zeros_of(type: TensorType, like: Any) -> Any:
    """Return zeros of a type, in the builder of a Value; they take no memory."""
    return filled(0, type, like)


def filled(number: float, type: TensorType, like: Any) -> Any:
    """Return an array of one number, in the builder of a Value; it takes no memory."""
    scalar = constant(like, np.asarray(number, type.dtype.numpy))
    return call(PRIMITIVES["broadcast_to"], scalar, shape=type.shape) if type.shape else scalar


def is_scalar(item: Any) -> bool:
    """Whether an operand is a plain Python number, which takes the dtype of what it meets."""
    return type(item) in (float, int, bool, complex)


class Elementwise:
    """An elementwise operation as users call it: operands are promoted as NumPy 2 promotes, and broadcast."""

    def __init__(self, primitive: Primitive, loop: np.ufunc) -> None:
        self.primitive = primitive
        self.__name__ = primitive.name
        self.__doc__ = primitive.doc
        self._loop = loop
        self._direct: set[Dtype] = set()

    def __call__(self, *operands: Any) -> Any:
        first = operands[0]
        if type(first) is Value and self._are_alike(first, operands):
            return first.builder.emit(self.primitive, operands, NO_PARAMS)[0]
        builder = builder_of(operands)
        if builder is None:
            eager = Builder(folds=True)
            return _number(self._emit(eager, operands))
        return self._emit(builder, operands)

    def _are_alike(self, first: Value, operands: Sequence[Any]) -> bool:
        """Whether operands need neither promotion nor broadcasting: the common case, met once for each equation."""
        builder, kind = first.builder, first.operand.type
        if kind.dtype not in self._direct or len(operands) != self.primitive.arity:
            return False
        for item in operands[1:]:
            if type(item) is not Value or item.builder is not builder:
                return False
            other = item.operand.type
            if other is not kind and other != kind:
                return False
        return True

    def _emit(self, builder: Builder, operands: Sequence[Any]) -> Value:
        if len(operands) != self.primitive.arity:
            raise ShapeError(f"{self.__name__}: needed {self.primitive.arity} operands, got {len(operands)}; pass exactly those")
        scalars = [is_scalar(item) for item in operands]
        values = [item if scalar else builder.lift(item) for item, scalar in zip(operands, scalars, strict=True)]
        given = tuple(item if scalar else item.dtype for item, scalar in zip(values, scalars, strict=True))
        needed = self._input_dtypes(given)
        if needed == given and len(set(needed)) == 1:
            self._direct.add(Dtype.of(needed[0]))
        lifted = [
            builder.number(item, dtype) if scalar else (item if item.dtype == dtype else convert(item, dtype))
            for item, scalar, dtype in zip(values, scalars, needed, strict=True)
        ]
        return builder.emit(self.primitive, broadcast_values(self.__name__, lifted), NO_PARAMS)[0]

    def _input_dtypes(self, given: tuple[Any, ...]) -> tuple[np.dtype[Any], ...]:
        return resolve_loop(self._loop, tuple(weak(item) if is_scalar(item) else item for item in given))


def weak(scalar: Any) -> Any:
    """Return the type by which a Python number takes part in promotion; a bool has a dtype of its own."""
    return np.dtype(bool) if isinstance(scalar, bool) else type(scalar)


@functools.lru_cache(maxsize=4096)
def resolve_loop(loop: np.ufunc, given: tuple[Any, ...]) -> tuple[np.dtype[Any], ...]:
    """Return the dtypes a ufunc computes in, for the given dtypes and Python scalar types.

    Raises:
        DtypeError: the ufunc has no such loop.
    """
    try:
        # Python scalar types take part weakly, as NumPy 2 promotes.
        found = loop.resolve_dtypes((*given, *[None] * loop.nout))[: loop.nin]
    except TypeError:
        names = ", ".join(getattr(item, "name", getattr(item, "__name__", str(item))) for item in given)
        raise DtypeError(
            f"{loop.__name__}: needed dtypes it is defined for, got {names}; convert with astype", given=names
        ) from None
    return tuple(Dtype.of(dtype).numpy for dtype in found)


def broadcast_values(where: str, values: Sequence[Value]) -> Sequence[Value]:
    """Return Values of one shape, by inserting broadcasts.

    Raises:
        ShapeError: the shapes do not agree.
    """
    shape = values[0].shape
    if all(value.shape == shape for value in values):
        return values
    shape = broadcast_shapes(where, *[value.type for value in values])
    return [value if value.shape == shape else call(PRIMITIVES["broadcast_to"], value, shape=shape) for value in values]


def broadcast_shapes(where: str, *types: TensorType) -> Shape:
    """Return the shape to which types broadcast.

    Raises:
        ShapeError: they do not.
    """
    try:
        return tuple(map(int, np.broadcast_shapes(*[type.shape for type in types])))
    except ValueError:
        names = " and ".join(map(str, types))
        raise ShapeError(f"{where}: operands must broadcast, got {names}; make the shapes agree or 1", given=names) from None


def elementwise(
    kernel: Callable[..., Any],
    *derivatives: Derivative,
    doc: str,
    domain: Interval | Sequence[Interval] = (-3.0, 3.0),
    loop: np.ufunc | None = None,
    result: Dtype | None = None,
    flops: float = 1.0,
    dtypes: tuple[Dtype, ...] = (Dtype.FLOAT64, Dtype.FLOAT32),
    is_real: bool = False,
) -> Elementwise:
    """Declare an elementwise primitive, named as its kernel, of as many operands as it has derivatives.

    Args:
        kernel: a NumPy ufunc, or a function of arrays.
        derivatives: one for each operand.
        doc: one sentence, with the convention at kinks and edges.
        domain: the interval tests sample operands from, or one for each.
        loop: the ufunc whose dtype rules hold, where the kernel is none.
        result: the dtype of the result, where it is not what the ufunc gives.
        flops: predicted operations an element.
        dtypes: the dtypes tests sample.
        is_real: whether complex operands are refused, though the ufunc takes them.
    """
    ufunc = kernel if isinstance(kernel, np.ufunc) else loop
    assert ufunc is not None
    name = kernel.__name__.lstrip("_")
    arity = len(derivatives)
    intervals: list[Any] = [domain] * arity if isinstance(domain[0], float) else list(domain)

    known: dict[int, tuple[TensorType, tuple[TensorType, ...]]] = {}  # by the identity of a type that all operands share

    def infer(*types: TensorType) -> tuple[TensorType, ...]:
        first = types[0]
        found = known.get(id(first))
        if found is not None and found[0] is first and types.count(first) == len(types) == arity:
            return found[1]
        if is_real and any(type.dtype.numpy.kind == "c" for type in types):
            raise DtypeError(f"{name}: needed real operands, got {', '.join(map(str, types))}; take their parts", given=types)
        inferred = (_infer_elementwise(name, ufunc, result, types),)
        if types.count(first) == arity:
            if len(known) >= MOST_KNOWN_TYPES:
                known.clear()
            known[id(first)] = first, inferred
        return inferred

    def samples(rng: np.random.Generator) -> Iterable[Sample]:
        for shape in ((), (3,), (2, 3)):
            for dtype in dtypes:
                yield Sample(tuple(_draw(rng, low, high, shape, dtype) for low, high in intervals))

    primitive = declare(
        Primitive(
            name=name,
            kernel=kernel,
            infer=infer,
            derivative=by_position(*derivatives),
            batch=lambda batched, operands, params: op(*operands),
            arity=arity,
            params=(),
            doc=doc,
            samples=samples,
            flops=lambda *types: float(flops * types[0].size),
            is_elementwise=True,
            is_commutative=kernel in COMMUTATIVE,
        )
    )
    op = Elementwise(primitive, ufunc)
    implements(*([kernel] if isinstance(kernel, np.ufunc) else []))(op)
    return op


@functools.lru_cache(maxsize=4096)
def _infer_elementwise(name: str, ufunc: np.ufunc, result: Dtype | None, types: tuple[TensorType, ...]) -> TensorType:
    shape = types[0].shape
    for type in types:
        if type.shape != shape:
            names = " and ".join(map(str, types))
            raise ShapeError(f"{name}: operands must have one shape, got {names}; broadcast them", given=names)
    given = tuple(type.dtype.numpy for type in types)
    needed = resolve_loop(ufunc, given)
    if needed != given:
        names = ", ".join(str(type.dtype) for type in types)
        text = f"{name}: needed operands of dtypes {', '.join(map(str, needed))}, got {names}; convert them"
        raise DtypeError(text, needed=needed, given=names)
    if result is None:
        result = Dtype.of(ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))[-1])
    return TensorType(result, shape)


def _draw(rng: np.random.Generator, low: float, high: float, shape: Shape, dtype: Dtype) -> Array:
    if dtype is Dtype.BOOL:
        return np.asarray(rng.random(shape) < 0.5)
    return np.asarray(rng.uniform(low, high, shape)).astype(dtype.numpy)


def draw(rng: np.random.Generator, *shape: int, dtype: str = "float64", low: float = -2.0, high: float = 2.0) -> Array:
    """Draw an array uniformly, for samples."""
    return _draw(rng, low, high, shape, Dtype(dtype))


def _convert(x: Array, *, dtype: Dtype) -> Array:
    return x.astype(dtype.numpy)


def _infer_convert(x: TensorType, *, dtype: Dtype) -> tuple[TensorType, ...]:
    if x.dtype in (Dtype.COMPLEX128, Dtype.COMPLEX64) and dtype not in (Dtype.COMPLEX128, Dtype.COMPLEX64):
        raise DtypeError(f"convert: needed a complex dtype for {x}, got {dtype}; take the real or imaginary part", given=dtype)
    return (x.with_dtype(dtype),)


def _convert_back(ct: Any, x: TensorType, *, dtype: Dtype) -> Any:
    is_widened = ct.dtype.kind == "c" and x.dtype.numpy.kind != "c"
    return convert(call(PRIMITIVES["real"], ct) if is_widened else ct, x.dtype)


_convert_primitive: Primitive = declare(
    Primitive(
        name="convert",
        kernel=_convert,
        infer=_infer_convert,
        derivative=by_position(Linear(_convert_back)),
        batch=lambda batched, operands, params: call(_convert_primitive, *operands, **params),
        arity=1,
        params=("dtype",),
        doc="The elements of x in another dtype; its derivative is zero where the dtype is an integer or bool.",
        samples=lambda rng: [
            Sample((draw(rng, 3),), {"dtype": Dtype.FLOAT32}),
            Sample((draw(rng, 2, dtype="float32"),), {"dtype": Dtype.FLOAT64}),
        ],
        flops=lambda x, *, dtype: float(x.size),
    )
)


@implements(np.ndarray.astype, np.astype)
def convert(x: Any, dtype: Any) -> Any:
    """Return the elements of x in another dtype."""
    wanted = dtype if isinstance(dtype, Dtype) else Dtype.of(np.dtype(dtype))
    return x if x.dtype == wanted.numpy else call(_convert_primitive, x, dtype=wanted)


def size_flops(x: TensorType, *others: TensorType, **params: Param) -> float:
    """Return one operation an element of the first operand."""
    return float(x.size)


def no_flops(*types: TensorType, **params: Param) -> float:
    """Return zero: nothing is computed, at most moved."""
    return 0.0


def normalize_axes(where: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Return axes as sorted non-negative numbers; None means all.

    Raises:
        ShapeError: an axis does not exist or occurs twice.
    """
    if axis is None:
        return tuple(range(ndim))
    given = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(int(item) + ndim if item < 0 else int(item) for item in given)
    if any(not 0 <= item < ndim for item in axes) or len(set(axes)) != len(axes):
        raise ShapeError(
            f"{where}: needed distinct axes of an array of {ndim} axes, got {axis}; correct the axis", given=axis, ndim=ndim
        )
    return tuple(sorted(axes))


__all__ = [
    "NO_PARAMS", "PRIMITIVES", "Constant", "Elementwise", "Linear", "Sample", "Tangent", "broadcast_shapes", "broadcast_values",
    "by_position", "call", "constant", "convert", "declare", "draw", "elementwise", "filled", "find_primitive", "implements",
    "is_scalar", "no_flops", "normalize_axes", "resolve_loop", "size_flops", "zeros_of",
]  # fmt: skip
