"""Loops as images: the bits of Numba's own function, mapped from a file by a process that knows no Numba; what is no image."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason='the native tier needs Numba: pip install "gradwire[jit]"')

import llvmlite.binding as llvm
import numba

import gradwire as gw
from gradwire_core.native import codes, compiler, functions, images, objects
from gradwire_core.native.images import ImageError, Mapped, link
from gradwire_core.native.loops import BLOCK, Loops, write
from gradwire_core.native.signatures import scratch_starts

RNG = np.random.default_rng(7)

needs_images = pytest.mark.skipif(not images.CAN_MAP, reason="this system runs no images")


def several(x, y, limit):
    """Some of each: functions, sums over all and over rows, truth values, windows beside zeros, a number."""
    smooth = np.exp(-x * x) * np.sin(y) + np.log1p(y * y) / (2.0 + np.tanh(x))
    return smooth, np.sum(smooth), np.sum(smooth * y, axis=1), (x > y) & (x < limit), np.pad(x[:, 3:], ((0, 0), (0, 3))) * y


OPERANDS = (*RNG.normal(size=(2, 3, 2 * BLOCK + 5)), np.array(0.5))


def by_dispatcher(source, signature):
    """Return the function of a source as Numba calls it: with arrays, which it takes apart itself."""
    letters = {"d": numba.float64, "b": numba.boolean, "F": numba.float64[::1], "C": numba.boolean[::1], "S": numba.float64[::1]}
    readonly = {"D": numba.float64, "B": numba.boolean}
    letters |= {letter: numba.types.Array(type, 1, "C", readonly=True) for letter, type in readonly.items()}
    scope = dict(objects._names())
    exec(source, scope)  # noqa: S102  # our own templates and numbers
    run = numba.njit(numba.int64(*[letters[item[0]] for item in signature.split()]), **functions.OPTIONS)(scope["run"])
    starts, _ = scratch_starts(signature)
    sizes = [int(item[1:]) for item in signature.split() if item[0] == "S"]

    def call(operands):
        given = list(operands)
        scratch = given.pop() if starts else None
        parts = [scratch[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        return run(*[item if isinstance(item, float) else item.reshape(-1) for item in given], *parts)

    return call


def object_of(text, entry="entry"):
    """Return the object file of a text of LLVM's language, and its function's name."""
    machine = codes.target(3)
    return machine.emit_object(llvm.parse_assembly(text)), entry


def bits(results):
    return [np.asarray(item).tobytes() for item in results]


def test_bits_are_those_of_the_function_as_numba_calls_it():
    program = gw.trace(several, *OPERANDS)
    assert bits(Loops(program, compiler.compile_source)(*OPERANDS)) == bits(Loops(program, by_dispatcher)(*OPERANDS))


def test_bits_are_the_same_where_llvm_loads_the_code(monkeypatch, tmp_path):
    program = gw.trace(several, *OPERANDS)
    needed = bits(Loops(program, compiler.compile_source)(*OPERANDS))
    monkeypatch.setattr(images, "CAN_MAP", False)
    assert bits(Loops(program, compiler.compile_source)(*OPERANDS)) == needed
    monkeypatch.setattr(compiler, "_build", lambda paths: [compiler.build(path) for path in paths] or True)
    folder = compiler.Folder(tmp_path / "code")
    assert bits(Loops(program, folder)(*OPERANDS)) == needed
    assert [path.suffix for path in (tmp_path / "code").iterdir()] == [".o"]
    assert bits(Loops(program, folder)(*OPERANDS)) == needed


def test_numbers_and_truth_values_among_the_operands():
    def function(x, factor, is_negative):
        return np.where(is_negative, -x, x) * factor, (x > factor) & is_negative

    x = RNG.normal(size=300)
    for is_negative in (True, False):
        operands = (x, np.array(2.5), np.array(is_negative))
        found = Loops(gw.trace(function, *operands), compiler.compile_source)(*operands)
        for one, other in zip(found, function(*operands), strict=True):
            np.testing.assert_array_equal(one, other)


@needs_images
def test_code_in_a_folder_is_run_without_numba_and_llvm(tmp_path):
    x = np.linspace(-1.0, 1.0, 1000)
    program = gw.trace(lambda x: np.exp(x) * x, x)
    (needed,) = Loops(program, compiler.Folder(tmp_path / "code"))(x)
    source, signature = write(program)
    text = f"""
import sys
import numpy as np
from pathlib import Path
from gradwire_core.native.compiler import Folder

run = Folder(Path({str(tmp_path / "code")!r}))({source!r}, {signature!r})
x, y = np.linspace(-1.0, 1.0, 1000), np.empty(1000)
assert run((x, y)) == 0
print(y.tobytes().hex(), [name for name in sys.modules if name.partition(".")[0] in ("numba", "llvmlite")])
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [needed.tobytes().hex(), "[]"]


@needs_images
@pytest.mark.parametrize("end", [-1, 30, 0, None])
def test_what_is_not_all_of_an_image_is_compiled_again(tmp_path, monkeypatch, end):
    monkeypatch.setattr(compiler, "_build", lambda paths: [compiler.build(path) for path in paths] or True)
    x = np.ones(200)
    program = gw.trace(lambda x: x * x + 1.0, x)
    folder = compiler.Folder(tmp_path / "code")
    Loops(program, folder)
    (file,) = (tmp_path / "code").iterdir()
    code = file.read_bytes()
    file.unlink()
    file.write_bytes(code[:end] if end is not None else code[:-1] + bytes([code[-1] ^ 1]))
    np.testing.assert_array_equal(Loops(program, folder)(x)[0], x * x + 1.0)
    assert file.read_bytes() == code


@pytest.mark.parametrize("name", ["numba", "llvmlite"])
def test_code_of_another_release_or_processor_is_not_taken(monkeypatch, name):
    version = compiler.version
    digests = []
    for known, processor in ((version, "one"), (lambda given: "0.1" if given == name else version(given), "one"), (version, "two")):
        compiler._deciding.cache_clear()
        monkeypatch.setattr(compiler, "version", known)
        monkeypatch.setattr(compiler, "processor", lambda processor=processor: processor)
        digests.append(compiler._digest("source", "D1 F1"))
    compiler._deciding.cache_clear()
    assert len(set(digests)) == 3
    assert compiler._digest("source", "D1 F1") != compiler._digest("source", "D1 F2")


def test_a_source_that_is_not_compiled_leaves_nothing_in_the_folder_and_it_is_told_why(tmp_path):
    folder = compiler.Folder(tmp_path / "code")
    with pytest.raises(RuntimeError, match="nothing"):
        folder("def run(a0, o0):\n    return nothing\n", "D1 F1")
    assert not list((tmp_path / "code").iterdir())


@needs_images
def test_code_that_files_may_not_be_mapped_for_is_copied(tmp_path, monkeypatch):
    compiled, entry = object_of("define i64 @entry(ptr %operands) {\n  ret i64 17\n}")
    (tmp_path / "code").write_bytes(link(compiled, entry))
    mmap = images.mmap.mmap
    refused = []

    def refuse(file, size, **given):
        if not refused:
            refused.append(file)
            raise PermissionError  # as where the folder's file system is mounted noexec
        return mmap(file, size, **given)

    monkeypatch.setattr(images.mmap, "mmap", refuse)
    mapped = Mapped(tmp_path / "code")
    assert refused
    assert images.function_at(mapped.address, mapped)(()) == 17


@needs_images
def test_memory_is_filled_and_copied_without_the_c_library():
    text = """
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define i64 @gradwire_loops(ptr %operands) {
  %to = load ptr, ptr %operands
  %from_at = getelementptr ptr, ptr %operands, i64 1
  %from = load ptr, ptr %from_at
  %count_at = getelementptr ptr, ptr %operands, i64 2
  %count = load i64, ptr %count_at
  %behind = getelementptr i8, ptr %to, i64 %count
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %count, i1 false)
  call void @llvm.memset.p0.i64(ptr %behind, i8 9, i64 %count, i1 false)
  ret i64 0
}
"""
    module = llvm.parse_assembly(objects._LIBRARY)
    machine = codes.target(3)
    objects._optimize(module, machine)
    module.link_in(llvm.parse_assembly(text))
    mapped = Mapped(link(machine.emit_object(module), objects.ENTRY))
    run = images.ctypes.CFUNCTYPE(images.ctypes.c_int64, images.ctypes.c_void_p)(mapped.address)
    for count in (0, 1, 7, 64, 1000):
        source, room = RNG.integers(0, 255, 1000, np.uint8), np.zeros(2001, np.uint8)
        block = np.array([room.ctypes.data, source.ctypes.data, count])
        assert run(block.ctypes.data) == 0
        np.testing.assert_array_equal(room, np.concatenate([source[:count], np.full(count, 9), np.zeros(2001 - 2 * count)]))


@needs_images
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("declare i64 @other(ptr)\ndefine i64 @entry(ptr %p) {\n %x = call i64 @other(ptr %p)\n ret i64 %x\n}", "to 'other'"),
        ("@kept = global i64 1\ndefine i64 @entry(ptr %p) {\n store i64 2, ptr @kept\n ret i64 0\n}", r"section \.data"),
        ("@at = constant ptr @entry\ndefine i64 @entry(ptr %p) {\n ret i64 0\n}", r"section \.data\.rel\.ro"),
        ("define i64 @another(ptr %p) {\n ret i64 0\n}", "a function entry, got 0"),
    ],
)  # fmt: skip
def test_code_that_is_tied_to_a_place_or_to_others_is_no_image(text, message):
    with pytest.raises(ImageError, match=message):
        link(*object_of(text))
    with pytest.raises(ImageError, match="ELF"):
        link(b"\xfe\xed\xfa\xcf", "entry")
