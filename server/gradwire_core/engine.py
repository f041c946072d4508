"""The engine: what the SDK and a worker call. A program and the derivatives asked of it become an executable, once.

All outputs of a request are derived, joined into one program in which equal equations are one (so that value, gradient and
Hessian share their forward pass), simplified, planned and compiled. That is pure and worth keeping: in memory, `ExecutableCache`,
and, where it took long to derive, in a folder, for other processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np
from threadpoolctl import ThreadpoolController

from gradwire_core.builder import Builder, Value
from gradwire_core.collecting import collecting_later
from gradwire_core.derived import Derived, Reading, Spec, find, keep
from gradwire_core.errors import ArgumentError, DtypeError, LimitError, ShapeError
from gradwire_core.executor import Executor, Runner, run_tape
from gradwire_core.kernels.choice import Chooser
from gradwire_core.kernels.cluster import plan_clustered
from gradwire_core.kernels.rooms import NO_ROOM
from gradwire_core.kernels.tape import expand
from gradwire_core.native.tier import Tier
from gradwire_core.passes import run_passes
from gradwire_core.planner import Plan
from gradwire_core.plans import Plans
from gradwire_core.program import Program
from gradwire_core.rematerialization import fit
from gradwire_core.structure.sparse import SparseSpec
from gradwire_core.structure.strategy import BY_TERMS, CALLS, preferring, recording, serving
from gradwire_core.structure.structured import StructuredJacobian
from gradwire_core.transforms import SPARSE, STRUCTURED, Transform, apply
from gradwire_core.types import Array, TensorType

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LAYOUTS = ("dense", "structured", "sparse")
# What an equation costs a cache, apart from its literals: records, kernels and code, measured on long programs.
EQUATION_BYTES = 3000
EXECUTABLE_BYTES = 20_000
LONG_SECONDS = 0.02
"""What takes longer to derive is kept in a folder, where there is one."""
LEAST_EQUATIONS = 32
"""What is derived of shorter programs within another is not looked for."""
FREE_BYTES = 2**24
"""So many bytes an evaluation by terms may take, also where the way that was chosen takes fewer."""


@dataclass(frozen=True, slots=True)
class Output:
    """One thing to compute of a program.

    Attributes:
        transforms: the chain of transforms, applied in order; none for the value.
        layout: "dense"; where the chain ends in jacobian or hessian, also "structured" for sums of terms, or "sparse" for a
            `scipy.sparse.csr_array` of shape (size of output, size of input).
    """

    transforms: tuple[Transform, ...] = ()
    layout: str = "dense"
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.transforms, self.layout)))

    def __hash__(self) -> int:
        return self._hash  # executables are found by it at every call


Result = Union[Array, StructuredJacobian, "csr_array"]


def derive(program: Program, transforms: Sequence[Transform], plans: Plans | None = None) -> Program:
    """Return the program that a chain of transforms makes of a program; its results are dense.

    Args:
        program: the program.
        transforms: the transforms, applied in order.
        plans: where what takes long to derive is kept, and looked for.

    Raises:
        ArgumentError, ShapeError, NotDifferentiableError: a transform does not fit.
    """
    if plans is not None and len(program.equations) >= LEAST_EQUATIONS:
        key = ("program", program.digest, *map(repr, transforms))
        return _find_or_make(plans, key, lambda: Derived.of(derive(program, transforms), (), ()), has_tape=False).make_program()
    for transform in transforms:
        program = apply(program, transform)
    return program


class _Part(NamedTuple):
    """What one Output contributes: its program, and how to read results that are not dense."""

    program: Program
    specs: tuple[Spec, ...] | None


def compile(
    program: Program,
    outputs: Sequence[Output],
    *,
    reproducible: bool = False,
    tier: Tier | None = None,
    chooser: Chooser | None = None,
    max_peak_bytes: int = 0,
    plans: Plans | None = None,
) -> Executable:
    """Return the executable of the outputs of a program: expensive, and pure.

    Args:
        program: what the outputs are of; it is not checked.
        outputs: what to compute.
        reproducible: whether every run must give the same bits.
        tier: compiles what runs long, in the background.
        chooser: chooses what runs large elementwise work, and on how many threads; without one, NumPy does, on one.
        max_peak_bytes: a plan that would take more memory computes cheap values again instead of keeping them, if it then takes no
            more than that; else it stays as it is, and so do reproducible ones, as other clusters may add sums in another order;
            0: all do.
        plans: where what takes long to derive is kept, and looked for.

    Raises:
        ArgumentError: a transform or layout does not fit, or outputs need inputs of different dtypes.
        ShapeError: outputs need inputs of different shapes, or a transform meets a wrong one.
        NotDifferentiableError: a derivative of or in integers.
    """
    with collecting_later():
        derived = _derive_or_find(program, outputs, plans)
        given = (reproducible, tier, chooser, max_peak_bytes)
        found = Executable(derived, len(program.inputs), *given)
    if any(choice.chosen not in BY_TERMS for choice in derived.choices):
        found.by_terms = _ByTerms(program, tuple(outputs), *given)
    return found


def _derive_or_find(program: Program, outputs: Sequence[Output], plans: Plans | None) -> Derived:
    """Return what is derived of a program, from the folder where it is there; what took long is kept in it."""
    if plans is None:
        return _derive_outputs(program, outputs)
    return _find_or_make(plans, (program.digest, *map(repr, outputs)), lambda: _derive_outputs(program, outputs), has_tape=True)


def _find_or_make(plans: Plans, key: Sequence[str], make: Callable[[], Derived], *, has_tape: bool) -> Derived:
    found = find(plans, key)
    if found is None:
        began = time.perf_counter()
        found = make()
        if time.perf_counter() - began > LONG_SECONDS:
            keep(plans, key, found, has_tape=has_tape)
    return found


def _derive_outputs(program: Program, outputs: Sequence[Output]) -> Derived:
    with recording() as choices:
        parts = [_derive_part(program, output) for output in outputs]
    joint, readings = _join(program, parts)
    return Derived.of(run_passes(joint), readings, choices)


@dataclass(slots=True)
class _ByTerms:
    """The same outputs with every Jacobian by terms, compiled when first needed.

    Attributes:
        program: what the outputs are of.
        outputs: what is computed.
        reproducible: whether every run must give the same bits.
        tier: compiles what runs long.
        chooser: chooses what runs large elementwise work.
        max_peak_bytes: the memory beyond which cheap values are computed again.
    """

    program: Program
    outputs: tuple[Output, ...]
    reproducible: bool
    tier: Tier | None = None
    chooser: Chooser | None = None
    max_peak_bytes: int = 0
    _made: Executable | None = None

    def get(self) -> Executable:
        """Return the executable; threads that ask at once may compile it twice, to the same."""
        if self._made is None:
            with preferring(BY_TERMS), collecting_later():
                derived = _derive_outputs(self.program, self.outputs)
            given = (self.reproducible, self.tier, self.chooser, self.max_peak_bytes)
            self._made = Executable(derived, len(self.program.inputs), *given)
        return self._made

    @property
    def nbytes(self) -> int:
        """An estimate of the memory that keeping what was compiled takes."""
        return 0 if self._made is None else self._made.nbytes


def _derive_part(program: Program, output: Output) -> _Part:
    if output.layout not in LAYOUTS:
        text = f"output: needed a layout of {', '.join(LAYOUTS)}, got {output.layout!r}; choose one"
        raise ArgumentError(text, given=output.layout)
    chain = output.transforms
    if output.layout == "dense":
        return _Part(_derive_serving(program, chain), None)
    last = chain[-1] if chain else None
    makers: Mapping[str, Callable[..., tuple[Program, tuple[Spec, ...]]]] = STRUCTURED if output.layout == "structured" else SPARSE
    if last is None or last.name not in makers:
        given = " of ".join(transform.name for transform in reversed(chain)) or "the value"
        text = (
            f"output: needed a chain that ends in jacobian or hessian for a {output.layout} layout, got {given}; ask for it dense"
        )
        raise ArgumentError(text, given=given)
    inner = derive(program, chain[:-1])
    with serving(CALLS):
        return _Part(*makers[last.name](inner, last.argnums))


def _derive_serving(program: Program, transforms: Sequence[Transform]) -> Program:
    """Return what `derive` does, with a last Jacobian that is not explored for longer than its calls can give back."""
    inner = derive(program, transforms[:-1])
    with serving(CALLS):
        return derive(inner, transforms[-1:])


def _join(program: Program, parts: Sequence[_Part]) -> tuple[Program, tuple[Reading, ...]]:
    """Return one program for all parts: inputs, then the seeds of each part; and how its outputs are read."""
    count = len(program.inputs)
    if len(parts) == 1:  # nothing to share
        (part,) = parts
        size = len(part.program.outputs)
        reading = Reading(len(part.program.inputs) - count, 0, size, part.specs)
        return part.program, (reading,)
    builder = Builder()
    inputs = [builder.input(type) for type in _input_types(program, parts)]
    flat: list[Value] = []
    readings: list[Reading] = []
    for part in parts:
        seeds = [builder.input(type) for type in part.program.input_types[count:]]
        start = len(flat)
        flat += builder.inline(part.program, [*inputs, *seeds])
        readings.append(Reading(len(seeds), start, len(flat), part.specs))
    return builder.build(flat), tuple(readings)


def _input_types(program: Program, parts: Sequence[_Part]) -> Sequence[TensorType]:
    """Return the types of the inputs, which a vmap may have changed."""
    count = len(program.inputs)
    found = parts[0].program.input_types[:count] if parts else program.input_types
    for number, part in enumerate(parts):
        for index, (one, other) in enumerate(zip(found, part.program.input_types[:count], strict=True)):
            if one != other:
                text = f"output {number}: needed input {index} of {one} as output 0, got {other}; batch both alike or ask apart"
                raise ShapeError(text, output=number, input=index, needed=one, given=other)
    return found


class Executable:
    """A program with the derivatives asked of it, ready to run; threads may share it.

    Attributes:
        plan: how it runs; `plan.flops` and `plan.peak_bytes` are known beforehand, and printing it gives a report. Where a tape
            runs it is made when first asked for.
        program: the joint program of all outputs.
        input_types: the types of the inputs.
        seed_types: for each output, the types of its tangents or cotangents.
        specs: for each output, the static half of each of its results; None where they are dense.
        by_terms: the same outputs by terms alone, where some Jacobian is computed in another way; None where none is.
    """

    def __init__(
        self,
        derived: Derived,
        input_count: int,
        reproducible: bool = False,
        tier: Tier | None = None,
        chooser: Chooser | None = None,
        max_peak_bytes: int = 0,
    ) -> None:
        self._derived = derived
        self._is_reproducible = reproducible
        self._threads = 1 if chooser is None or reproducible else chooser.threads
        self._max_peak_bytes = 0 if reproducible else max_peak_bytes
        types, readings = derived.input_types, derived.readings
        self.input_types = types[:input_count]
        seeds = iter(types[input_count:])
        self.seed_types = tuple(tuple(itertools.islice(seeds, reading.seed_count)) for reading in readings)
        self.specs = tuple(reading.specs for reading in readings)
        places = sum(spec.nbytes for reading in readings for spec in reading.specs or () if isinstance(spec, SparseSpec))
        self._nbytes = EXECUTABLE_BYTES + EQUATION_BYTES * derived.equation_count + derived.literal_bytes + places
        self._readings = readings
        self._expected = tuple((type.dtype.numpy, type.shape) for type in types)
        self._seed_counts = [len(types) for types in self.seed_types]
        self._kernels: list[object] = []
        self._execute = self._make_runner(None if reproducible else tier, chooser)
        self.by_terms: _ByTerms | None = None

    def _make_runner(self, tier: Tier | None, chooser: Chooser | None) -> Runner:
        """Return what runs it; of a tape no plan is needed for that."""
        tape = self._derived.tape
        if tape is None and not self._max_peak_bytes:
            tape = expand(self._derived.make_program())
        if tape is not None:
            return run_tape(tape, lambda: self.plan, tier, self._settle)
        executor = Executor(self._make_plan(), tier, chooser)
        self.plan = executor.plan
        return executor

    def _settle(self, run: Runner, kernels: Sequence[object] | None) -> None:
        """Have what was found to be the fastest run from now on, and the report tell its kernels, where these are others."""
        self._execute = run
        if kernels is not None:
            self._kernels[:] = kernels

    @cached_property
    def plan(self) -> Plan:
        """How it runs."""
        return dataclasses.replace(self._make_plan(), kernels=self._kernels)

    def _make_plan(self) -> Plan:
        choices = self._derived.choices
        planned = functools.partial(plan_clustered, reproducible=self._is_reproducible, choices=choices, threads=self._threads)
        simple = self._derived.make_program()
        return fit(simple, self._max_peak_bytes, planned) if self._max_peak_bytes else planned(simple)

    @property
    def program(self) -> Program:
        """The joint program of all outputs."""
        return self.plan.program

    @cached_property
    def array_types(self) -> tuple[tuple[TensorType, ...], ...]:
        """For each output, the types of the arrays that its results are made of; of its results, where they are dense."""
        types = self.program.output_types
        return tuple(types[reading.start : reading.stop] for reading in self._readings)

    @property
    def rooms(self) -> frozenset[int]:
        """The numbers of the outputs of the program that may be computed in memory that the caller gives."""
        return self._execute.rooms if isinstance(self._execute, Executor) else frozenset()

    @property
    def nbytes(self) -> int:
        """An estimate of the memory that keeping it takes, which grows when the same by terms is compiled."""
        return self._nbytes + (0 if self.by_terms is None else self.by_terms.nbytes)

    def run(
        self, inputs: Sequence[Array], seeds: Sequence[Sequence[Array]] = (), room: Mapping[int, Array] = NO_ROOM
    ) -> list[list[Result]]:
        """Return the results of each output.

        Args:
            inputs: the inputs of the program, batched as the vmaps of the outputs say.
            seeds: for each output the tangents or cotangents that its chain added; may be left out where there are none.
            room: row-major arrays that outputs of the program may be computed in, by their numbers, of their types. A result that
                is one of them was; of the others nothing is known.

        Raises:
            ShapeError, DtypeError: an array is not of the type it was compiled for.
            ArgumentError: the number of arrays is wrong, or an index is out of range.
            LimitError: there is not enough memory.
        """
        arrays = [*inputs]
        for group in seeds:
            arrays += group
        self._check(arrays, inputs, seeds)
        if self._is_reproducible:
            with _one_thread():
                flat = self._run(arrays, room)
        else:
            flat = self._run(arrays, room)
        if self.by_terms is not None and not all(map(_is_finite, flat)):
            other = self.by_terms.get()
            if other.plan.peak_bytes <= max(self.plan.peak_bytes, FREE_BYTES):
                del flat
                return other.run(inputs, seeds)
        return [
            list(flat[start:stop]) if specs is None else _fill(specs, flat[start:stop]) for _, start, stop, specs in self._readings
        ]

    def _run(self, arrays: Sequence[Array], room: Mapping[int, Array]) -> tuple[Array, ...]:
        try:
            if room and isinstance(self._execute, Executor):
                return self._execute.run_into(room, *arrays)
            return self._execute(*arrays)
        except MemoryError as error:
            needed = self.plan.peak_bytes
            text = f"run: needed {needed} bytes of memory at its peak, got fewer; ask for less at once, or for layout='structured'"
            raise LimitError(text, needed=needed) from error

    def _check(self, arrays: list[Array], inputs: Sequence[Array], seeds: Sequence[Sequence[Array]]) -> None:
        """Make NumPy arrays in native byte order of the arrays, if they are of the right types."""
        expected = self._expected
        if len(arrays) != len(expected) or len(inputs) != len(self.input_types):
            self._refuse_count(inputs, seeds)
        for index, (dtype, shape) in enumerate(expected):
            array = arrays[index]
            if type(array) is not np.ndarray or array.shape != shape or (array.dtype is not dtype and array.dtype != dtype):
                array = arrays[index] = self._convert(array, index)
            if self._is_reproducible and not array.flags.c_contiguous:
                arrays[index] = array.copy()  # the order of axes in memory is an order of summation
        if seeds and [*map(len, seeds)] != self._seed_counts:
            self._refuse_count(inputs, seeds)

    def _refuse_count(self, inputs: Sequence[Array], seeds: Sequence[Sequence[Array]]) -> None:
        needed = f"{len(self.input_types)} inputs and {[*map(len, self.seed_types)]} seeds"
        given = f"{len(inputs)} and {[*map(len, seeds)]}"
        raise ArgumentError(f"run: needed {needed}, got {given}; pass exactly those", needed=needed, given=given)

    def _convert(self, given: Array, index: int) -> Array:
        array = np.asarray(given)
        found, needed = TensorType.of(array), self._derived.input_types[index]
        if found != needed:
            what = f"input {index}" if index < len(self.input_types) else f"seed {index - len(self.input_types)}"
            kind = ShapeError if found.shape != needed.shape else DtypeError
            raise kind(f"{what}: needed {needed}, got {found}; pass an array of that type", needed=needed, given=found)
        return array.astype(needed.dtype.numpy, copy=False)


def _is_finite(array: Array) -> bool:
    """Return whether all elements are finite: the sum of their squares tells, unless it overflows."""
    return math.isfinite(np.vdot(array, array).real) or bool(np.isfinite(array).all())


def _one_thread() -> contextlib.AbstractContextManager[Any]:
    """Limit BLAS to one thread for a block: how many threads share a sum decides its last bits."""
    has_scipy = "scipy.linalg" in sys.modules  # it brings a BLAS of its own
    limited: contextlib.AbstractContextManager[Any] = _blas(has_scipy).limit(limits=1, user_api="blas")
    return limited


@functools.cache
def _blas(has_scipy: bool) -> ThreadpoolController:
    del has_scipy
    return ThreadpoolController()


def _fill(specs: tuple[Spec, ...], factors: Sequence[Array]) -> list[Result]:
    results: list[Result] = []
    start = 0
    for spec in specs:
        results.append(spec.fill(factors[start : start + spec.factor_count]))
        start += spec.factor_count
    return results


_Key = tuple[str, tuple[Output, ...], bool]


@dataclass(slots=True)
class _Kept:
    """An executable that a cache keeps, and the bytes it is counted as."""

    executable: Executable
    nbytes: int


class ExecutableCache:
    """Executables by program digest, outputs and reproducibility; the least recently used leave first. Threads may share it.

    Two threads that ask for the same executable compile it once.

    Args:
        max_executables: how many it keeps.
        max_bytes: how many bytes they may take, by their own estimate; the last one asked for stays in any case.
        tier: compiles what runs long, in the background.
        chooser: chooses what runs large elementwise work, and on how many threads.
        max_peak_bytes: plans that would take more memory compute cheap values again; 0: none does.
        plans: where what takes long to derive is kept, and looked for.

    Attributes:
        hits: how often an executable was there, or on its way.
        misses: how often one had to be compiled, or `find` found none.
    """

    def __init__(
        self,
        max_executables: int = 1024,
        max_bytes: int = 512 * 2**20,
        tier: Tier | None = None,
        plans: Plans | None = None,
        chooser: Chooser | None = None,
        max_peak_bytes: int = 0,
    ) -> None:
        self._tier = tier
        self._plans = plans
        self._max_peak_bytes = max_peak_bytes
        self._chooser = chooser
        self.max_executables = max_executables
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._coming: dict[_Key, Future[Executable]] = {}
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """The estimated bytes of what is kept."""
        return self._nbytes

    def find(self, digest: str, outputs: Sequence[Output], reproducible: bool = False) -> Executable | None:
        """Return the executable of a program known by its digest alone, if it is kept."""
        with self._lock:
            return self._find((digest, tuple(outputs), reproducible))

    def get(self, program: Program, outputs: Sequence[Output], reproducible: bool = False) -> Executable:
        """Return the executable of a program, compiled if it is not kept.

        Raises:
            ArgumentError, ShapeError, NotDifferentiableError: as `compile`.
        """
        key = (program.digest, tuple(outputs), reproducible)
        with self._lock:
            coming = self._coming.get(key) if self._coming else None  # to hash a key takes a while
            if coming is not None:
                self.hits += 1
            else:
                found = self._find(key)
                if found is not None:
                    return found
                mine: Future[Executable] = Future()
                self._coming[key] = mine
        if coming is not None:
            return coming.result()
        return self._compile(key, program, mine)

    def _find(self, key: _Key) -> Executable | None:
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        if found.nbytes != found.executable.nbytes:  # it compiled more when it ran
            self._nbytes += found.executable.nbytes - found.nbytes
            found.nbytes = found.executable.nbytes
            self._drop()
        return found.executable

    def _compile(self, key: _Key, program: Program, promise: Future[Executable]) -> Executable:
        try:
            made = compile(
                program,
                key[1],
                reproducible=key[2],
                tier=self._tier,
                chooser=self._chooser,
                max_peak_bytes=self._max_peak_bytes,
                plans=self._plans,
            )
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            promise.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._keep(key, made)
        promise.set_result(made)
        return made

    def _keep(self, key: _Key, made: Executable) -> None:
        """Keep a new executable as the last used."""
        self._kept[key] = _Kept(made, made.nbytes)
        self._nbytes += made.nbytes
        self._drop()

    def _drop(self) -> None:
        """Forget the least recently used, while there is too much."""
        while len(self._kept) > 1 and (len(self._kept) > self.max_executables or self._nbytes > self.max_bytes):
            _, dropped = self._kept.popitem(last=False)
            self._nbytes -= dropped.nbytes
