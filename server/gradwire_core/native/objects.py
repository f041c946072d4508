"""From the source of loops to an object file with one function of C, by Numba and LLVM: nothing of either is needed to run it.

    long ENTRY(tuple of operands)  --takes where the elements are, and numbers-->  run(...), as Numba compiled it

A call from Python must be short, so the function is handed a tuple as it is and finds the addresses of arrays in it: fields at
fixed places, which `images.function_at` checks. It reads them, and neither keeps, counts nor makes objects.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire_core.native import codes
from gradwire_core.native.images import FIRST_FIELD, FIRST_ITEM
from gradwire_core.native.pages import give_back_code
from gradwire_core.native.signatures import NUMBERS, READ, RESULTS, scratch_starts
from gradwire_core.native.templates import FUNCTIONS
from gradwire_core.types import Dtype

ENTRY = "gradwire_loops"
_LEVEL = 3
_TRUTHS = (READ[Dtype.BOOL], RESULTS[Dtype.BOOL])
_BY_BYTES = """
define ptr @{name}(ptr noalias %to, {operand}, i64 %count) #0 {{
  %is_none = icmp eq i64 %count, 0
  br i1 %is_none, label %exit, label %body
body:
  %i = phi i64 [ 0, %0 ], [ %next, %body ]
{value}
  %at = getelementptr inbounds i8, ptr %to, i64 %i
  store i8 %byte, ptr %at
  %next = add nuw i64 %i, 1
  %is_last = icmp eq i64 %next, %count
  br i1 %is_last, label %exit, label %body
exit:
  ret ptr %to
}}
"""
_SET = "  %byte = trunc i32 %value to i8"
_COPY = "  %source = getelementptr inbounds i8, ptr %from, i64 %i\n  %byte = load i8, ptr %source"
_LIBRARY = "".join(
    [
        "define void @NRT_MemInfo_call_dtor(ptr %unused) { ret void }",
        _BY_BYTES.format(name="memset", operand="i32 %value", value=_SET),
        _BY_BYTES.format(name="memcpy", operand="ptr noalias %from", value=_COPY),
        'attributes #0 = { nounwind "no-builtins" }',
    ]
)
"""What LLVM may call by name; memory is the caller's, so none is counted."""
_KEPT = (ENTRY, "memset", "memcpy")


def compile_object(source: str, signature: str) -> bytes:
    """Return the object file of a source; takes a second or more."""
    import llvmlite.binding as llvm

    name, text = _compiled(source, signature)
    machine = codes.target(_LEVEL)
    module = llvm.parse_assembly(_LIBRARY)
    _optimize(module, machine)
    compiled = llvm.parse_assembly(text)
    types = [str(argument.type) for argument in compiled.get_function(name).arguments]
    module.link_in(compiled)
    module.link_in(llvm.parse_assembly(_entry(name, types, signature)))
    for item in (*module.functions, *module.global_variables):
        if not item.is_declaration and item.name not in _KEPT:
            item.linkage = llvm.Linkage.internal
    _drop_unused(module, machine)
    module.verify()
    found: bytes = machine.emit_object(module)
    return found


def _compiled(source: str, signature: str) -> tuple[str, str]:
    """Return the name of a source's function, and the text in which Numba writes it."""
    numba = _numba()
    from gradwire_core.native.functions import OPTIONS

    letters = {"d": numba.float64, "b": numba.boolean, "F": numba.float64[::1], "C": numba.boolean[::1], "S": numba.float64[::1]}
    letters |= {
        "D": numba.types.Array(numba.float64, 1, "C", readonly=True),
        "B": numba.types.Array(numba.boolean, 1, "C", readonly=True),
    }
    types = [letters[item[0]] for item in signature.split()]
    scope = dict(_names())
    exec(compile(source, "<loops>", "exec"), scope)  # noqa: S102  # our own templates and numbers
    run = numba.njit(numba.int64(*types), no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(scope["run"])
    (found,) = run.overloads.values()
    return found.fndesc.llvm_func_name, found.library.get_llvm_str()


def _entry(name: str, types: Sequence[str], signature: str) -> str:
    """Return the text of the function that takes its operands from a tuple; where `run` raises, a value is not right."""
    operands = signature.split()
    starts, _ = scratch_starts(signature)
    fixed = len(operands) - len(starts)
    lines = [line for place, item in enumerate(operands[:fixed]) for line in _field(place, item)]
    if starts:
        lines += _field(fixed, "scratch", "%scratch")
        lines += [f"  %v{fixed + number} = getelementptr double, ptr %scratch, i64 {start}" for number, start in enumerate(starts)]
    given, remaining = ["ptr %result", "ptr %raised"], iter(types[2:])
    for place, item in enumerate(operands):
        if item == NUMBERS[Dtype.BOOL]:
            type = next(remaining)
            lines += [f"  %t{place} = fcmp une double %v{place}, 0.0", f"  %b{place} = zext i1 %t{place} to {type}"]
            given.append(f"{type} %b{place}")
        elif item == NUMBERS[Dtype.FLOAT64]:
            given.append(f"{next(remaining)} %v{place}")
        else:
            given += [f"{next(remaining)} {value}" for value in _array(f"%v{place}", item)]
    return "\n".join([
        f'declare i32 @"{name}"({", ".join(types)})',
        f"define i64 @{ENTRY}(ptr %operands) {{",
        "  %result = alloca i64",
        "  %raised = alloca ptr",
        *lines,
        f'  %status = call i32 @"{name}"({", ".join(given)})',
        "  %is_raised = icmp ne i32 %status, 0",
        "  %found = load i64, ptr %result",
        "  %told = select i1 %is_raised, i64 1, i64 %found",
        "  ret i64 %told",
        "}",
    ])  # fmt: skip


def _field(place: int, item: str, name: str = "") -> list[str]:
    """Return what reads the value of a float, or the address of an array's elements, at a place of the tuple."""
    return [
        f"  %i{place} = getelementptr i8, ptr %operands, i64 {FIRST_ITEM + 8 * place}",
        f"  %o{place} = load ptr, ptr %i{place}",
        f"  %f{place} = getelementptr i8, ptr %o{place}, i64 {FIRST_FIELD}",
        f"  {name or f'%v{place}'} = load {'double' if item in NUMBERS.values() else 'ptr'}, ptr %f{place}",
    ]


def _array(address: str, item: str) -> list[str]:
    """Return an array as functions of Numba take it: owner, count, bytes of each, address, shape, strides."""
    count, item_bytes = item[1:], "1" if item[0] in _TRUTHS else "8"
    return ["null", "null", count, item_bytes, address, count, item_bytes]


def _optimize(module: Any, machine: Any) -> None:
    """Make vector loops of what is written by bytes."""
    import llvmlite.binding as llvm

    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = True
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)


def _drop_unused(module: Any, machine: Any) -> None:
    import llvmlite.binding as llvm

    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))


@functools.cache
def _numba() -> Any:
    """Return Numba, whose import maps half of LLVM's code: that is given back before other parts of it are run."""
    import numba

    give_back_code()
    return numba


@functools.cache
def _names() -> dict[str, Any]:
    """Return what a source refers to."""
    from gradwire_core.native import functions

    names = {name: getattr(functions, name) for name in FUNCTIONS}
    numbers = {"inf": np.inf, "nan": np.nan, "largest_angle": functions.LARGEST_ANGLE}
    others = {name: getattr(functions, name) for name in ("total", "clear", "add_finite")}
    return {**names, **numbers, **others, "U": np.uint64, "sqrt": np.sqrt}
