"""Programs as users hold them: what `trace` gives, and what every transform takes and returns."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from gradwire._nest import flatten_call
from gradwire._task import Argnums, Form, Format, Layout, Prepared, check_explained, prepare
from gradwire._tracing import Trace
from gradwire_core import program as core
from gradwire_core.builder import Builder, Value
from gradwire_core.types import Array

if TYPE_CHECKING:
    from gradwire_core.plans import Plans
    from gradwire_proto.v1 import program_pb2


@dataclass(frozen=True, eq=False, repr=False)
class Program(core.Program):
    """A traced function: typed equations from inputs to outputs, with static shapes.

    Printing it shows its equations. It can be differentiated, stored, sent, and exported as plain NumPy source; it stands
    wherever a function stands, and a transform of a program is a program. The arguments are its inputs without the captured
    ones; a single output is returned as an array, several as a tuple.

    Attributes:
        inputs: the arguments, then the captured inputs.
        equations: the equations, in topological order.
        outputs: what is returned.
        captured: the arrays of the last inputs, which the function took from its surroundings. They are no part of the
            program's digest and do not travel with `to_proto`.
        names: the names of the first inputs, for derivations: those of the function's parameters.

    Example:
        >>> import numpy as np, gradwire as gw
        >>> program = gw.trace(lambda x: np.sin(x) * x, 2.0)
        >>> print(program)
        program(a: float64[]) {
          b: float64[] = sin(a)
          c: float64[] = multiply(b, a)
        } -> (c)
        >>> gw.evaluate(gw.grad(program))(0.0)
        array(0.)
    """

    captured: tuple[Array, ...] = ()
    names: tuple[str, ...] = ()

    @cached_property
    def traced(self) -> Trace:
        """The program as the trace of a function of its arguments."""
        count = len(self.inputs) - len(self.captured)
        _, arguments = flatten_call((0.0,) * count, {})
        _, results = flatten_call((0.0,) * len(self.outputs), {})
        structure = results.children[0] if len(self.outputs) == 1 else results
        return Trace("program", self, self.captured, arguments, structure, self.names)

    def to_proto(self) -> program_pb2.Program:
        """Return the program as a message of gradwire.v1; captured arrays become inputs like any other.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> message = gw.trace(np.sin, 2.0).to_proto()
            >>> gw.Program.from_proto(message).digest == gw.trace(np.sin, 2.0).digest
            True
        """
        from gradwire_proto.program import encode_program

        return encode_program(self)

    @classmethod
    def from_proto(cls, message: program_pb2.Program) -> Self:
        """Return the program of a message of gradwire.v1.

        Raises:
            ProgramError: the message breaks the grammar.
            UnknownPrimitiveError: it uses a primitive that this version does not have.
            ShapeError, DtypeError: its types do not agree.
        """
        from gradwire_proto.program import decode_program

        return cls.of(decode_program(message))

    @classmethod
    def of(cls, program: core.Program, captured: Sequence[Array] = (), names: Sequence[str] = ()) -> Self:
        """Return a program of the core as one that users hold."""
        return cls(program.inputs, program.equations, program.outputs, tuple(captured), tuple(names))

    def numpy_source(self) -> str:
        """Return a Python function that computes the program with plain NumPy, as source text.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> source = gw.trace(np.sin, 2.0).numpy_source()
            >>> "b = np.sin(a)" in source
            True
        """
        from gradwire_core.source import numpy_source

        return numpy_source(self)

    def explain(
        self, transform: str = "evaluate", argnums: Argnums = 0, *, layout: Layout = "dense", format: Format = "text"
    ) -> Any:
        """Return how the program and a derivative of it are derived, step by step in index notation, and what that costs.

        Args:
            transform: what is explained: `evaluate`, `grad`, `value_and_grad`, `jacobian`, `hessian`, `jacobian_det`,
                `jacobian_slogdet` or `jacobian_logvolume`.
            argnums: the arguments of the derivative.
            layout: of a Jacobian or Hessian.
            format: `text`, `latex` for LaTeX, or `data` for a dict of what JSON can hold.

        Raises:
            ArgumentError: there is no such transform, layout or format, or the argnums do not fit.

        Example:
            >>> import numpy as np, gradwire as gw
            >>> print(gw.trace(lambda t: np.sin(t), np.ones(3)).explain())  # doctest: +ELLIPSIS
            inputs
              t[i]: float64[3]
            steps
              1. a[i] = sin(t[i])                                       chain rule
                   partial  da[i]/dt[i'] = delta[i,i'] cos(t[i])
            ...
        """
        from gradwire_core.explain import explain

        form = Form(transform, argnums, layout)
        check_explained(form, format)
        return explain(self, prepare(self.traced, form).outputs, format=format, names=self.names)


def derive(trace: Trace, form: Form) -> tuple[core.Program, tuple[int, ...]]:
    """Return the program that computes the outputs of a form, and how many results each output has; worked out once a trace.

    Its inputs are those of the trace, then the seeds of each output in order.
    """
    key = (form, "derived")
    found: tuple[core.Program, tuple[int, ...]] | None = trace.prepared.get(key)
    if found is None:
        found = trace.prepared[key] = _derive(trace, prepare(trace, form))
    return found


def _derive(trace: Trace, prepared: Prepared) -> tuple[core.Program, tuple[int, ...]]:
    from gradwire_core import engine

    plans = _plans()
    programs = [
        engine.derive(trace.program, item.transforms, plans) if item.transforms else trace.program for item in prepared.outputs
    ]
    counts = tuple(len(program.outputs) for program in programs)
    if len(programs) == 1:
        return programs[0], counts
    builder, count = Builder(), len(trace.program.inputs)
    shared = [builder.input(item) for item in trace.program.input_types]
    results: list[Value] = []
    for program in programs:
        seeds = [builder.input(item) for item in program.input_types[count:]]
        results += builder.inline(program, [*shared, *seeds])
    return builder.build(results), counts


@functools.cache
def _plans() -> Plans | None:
    """Return where this process keeps derived programs: what a traced function derives is found there as what a call does."""
    from gradwire._config import EngineConfig
    from gradwire_core.plans import open_plans

    config = EngineConfig.from_environ()
    return open_plans(config.cache_folder, config.plan_folder_bytes)


def derive_program(program: Program, form: Form) -> Program:
    """Return a derivative of a program as a program; captured inputs stay the last ones.

    Raises:
        ArgumentError: the form does not fit the program.
    """
    derived, _ = derive(program.traced, form)
    return Program.of(derived, program.captured, program.names)
